"""The examples that draw videos, from text or from an image by --image-path."""

from typing import Any

from ditmesh.job.example import CacheSettings, Example, Images

CAT_WALKS = "A cat walks on the grass, realistic"
BAKING = "A cat and a dog bake a cake in a cosy kitchen; the cat weighs the flour, the dog stirs the batter."
COMES_ALIVE = "The scene comes to life: what is in the picture begins to move gently while the camera drifts closer."
WAN_NEGATIVE = (
    "Bright tones, overexposed, static, blurred details, subtitles, style, works, paintings, images, overall gray, "
    "worst quality, low quality, JPEG compression residue, ugly, incomplete, extra fingers, poorly drawn hands, "
    "poorly drawn faces, deformed, disfigured, misshapen limbs, fused fingers, still picture, messy background, "
    "three legs, many people in the background, walking backwards"
)
LTX_NEGATIVE = "worst quality, inconsistent motion, blurry, jittery, distorted"
START = Images()
# The one for noisy latents runs few steps, the other the rest.
TWO_EXPERTS = CacheSettings(
    transformers=({"max_warmup_steps": 4, "max_cached_steps": 8}, {"max_warmup_steps": 2, "max_cached_steps": 20})
)


REFERENCES = Images("reference_images", needed=False, many=True)
WIDE, SQUARE, SMALL = (480, 832, 49), (512, 512, 81), (384, 640, 49)  # height, width, frames
T2V, I2V, VACE = "WanPipeline", "WanImageToVideoPipeline", "WanVACEPipeline"


def _video(
    name: str, pipeline: str, model: str, steps: int | None, size: tuple[int, int, int], scale: float, **more: Any
) -> Example:
    height, width, frames = size
    prompt, call = more.pop("prompt", CAT_WALKS), {"guidance_scale": scale, **more.pop("call", {})}
    variable = more.pop("variable", f"{name.upper().replace('.', '_')}_DIR")
    return Example(
        name, pipeline, model, prompt, steps, variable, height=height, width=width, frames=frames, call=call, **more
    )


def _wan(name: str, pipeline: str, model: str, steps: int, size: tuple[int, int, int], scale: float, **more: Any):
    return _video(name, pipeline, model, steps, size, scale, call={"negative_prompt": WAN_NEGATIVE}, **more)


def _i2v(name: str, model: str, variable: str, **more: Any) -> Example:
    return _wan(name, I2V, model, 50, WIDE, 3.5, prompt=COMES_ALIVE, variable=variable, images=START, **more)


def _vace(name: str, model: str, variable: str, **more: Any) -> Example:
    return _wan(name, VACE, model, 30, SQUARE, 5.0, variable=variable, images=REFERENCES, **more)


def _ltx2(name: str, pipeline: str, **more: Any) -> Example:
    own: dict[str, Any] = {"variable": "LTX2_DIR", "fps": 24, "rate_argument": "frame_rate"}
    call = {"negative_prompt": LTX_NEGATIVE}
    return _video(name, pipeline, "Lightricks/LTX-2", 40, (512, 768, 121), 4.0, call=call, **own, **more)


VIDEOS = (
    _wan("wan2.1_t2v", T2V, "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", 30, WIDE, 5.0, variable="WAN_DIR"),
    _wan(
        "wan2.2_t2v", T2V, "Wan-AI/Wan2.2-T2V-A14B-Diffusers", 30, WIDE, 5.0, variable="WAN_2_2_DIR", cache=TWO_EXPERTS
    ),
    _i2v("wan2.1_i2v", "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", "WAN_I2V_DIR"),
    _i2v("wan2.2_i2v", "Wan-AI/Wan2.2-I2V-A14B-Diffusers", "WAN_2_2_I2V_DIR", cache=TWO_EXPERTS),
    _vace("wan2.1_vace", "Wan-AI/Wan2.1-VACE-1.3B-diffusers", "WAN_VACE_DIR"),
    _vace("wan2.2_vace", "linoyts/Wan2.2-VACE-Fun-14B-diffusers", "WAN_2_2_VACE_DIR", cache=TWO_EXPERTS),
    _video(
        "skyreels_v2",
        "SkyReelsV2Pipeline",
        "Skywork/SkyReels-V2-T2V-14B-720P-Diffusers",
        50,
        (720, 1280, 21),
        6.0,
        prompt=BAKING,
    ),
    _ltx2("ltx2_t2v", "LTX2Pipeline", prompt=BAKING),
    _ltx2("ltx2_i2v", "LTX2ImageToVideoPipeline", prompt=COMES_ALIVE, images=START, saved_as=("LTX2Pipeline",)),
    _video(
        "helios_t2v",
        "HeliosPipeline",
        "BestWishYsh/Helios-Base",
        50,
        SMALL,
        5.0,
        call={"negative_prompt": WAN_NEGATIVE},
        prompt=BAKING,
        variable="HELIOS_DIR",
        fps=24,
    ),
    _video(
        "helios_t2v_distill",
        "HeliosPyramidPipeline",
        "BestWishYsh/Helios-Distilled",
        None,
        SMALL,
        1.0,
        call={"pyramid_num_inference_steps_list": [2, 2, 2], "is_amplify_first_chunk": True},
        prompt=BAKING,
        variable="HELIOS_DISTILL_DIR",
        fps=24,
    ),
    _video(
        "cosmos3_omni_t2v",
        "Cosmos3OmniPipeline",
        "nvidia/Cosmos3-Nano",
        35,
        (480, 832, 189),
        6.0,
        prompt=BAKING,
        variable="COSMOS3_OMNI_DIR",
        fps=24,
        rate_argument="fps",
    ),
    _video("anyflow_t2v", "AnyFlowPipeline", "nvidia/AnyFlow-Wan2.1-T2V-14B-Diffusers", 4, (480, 832, 33), 1.0, fps=16),
    _video(
        "anyflow_far", "AnyFlowFARPipeline", "nvidia/AnyFlow-FAR-Wan2.1-1.3B-Diffusers", 4, (480, 832, 81), 1.0, fps=16
    ),
)
