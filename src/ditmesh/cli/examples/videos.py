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


def _video(
    name: str,
    pipeline: str,
    model: str,
    steps: int | None,
    size: tuple[int, int, int],
    call: dict[str, Any],
    **more: Any,
) -> Example:
    height, width, frames = size
    prompt = more.pop("prompt", CAT_WALKS)
    variable = more.pop("variable", f"{name.upper().replace('.', '_')}_DIR")
    return Example(
        name, pipeline, model, prompt, steps, variable, height=height, width=width, frames=frames, call=call, **more
    )


def _wan(name: str, pipeline: str, model: str, steps: int, size: tuple[int, int, int], scale: float, **more: Any):
    call = {"guidance_scale": scale, "negative_prompt": WAN_NEGATIVE}
    return _video(name, pipeline, model, steps, size, call, **more)


def _ltx2(name: str, pipeline: str, **more: Any) -> Example:
    call = {"guidance_scale": 4.0, "negative_prompt": LTX_NEGATIVE}
    return _video(
        name,
        pipeline,
        "Lightricks/LTX-2",
        40,
        (512, 768, 121),
        call,
        variable="LTX2_DIR",
        fps=24,
        rate_argument="frame_rate",
        **more,
    )


VIDEOS = (
    _wan("wan2.1_t2v", "WanPipeline", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", 30, (480, 832, 49), 5.0, variable="WAN_DIR"),
    _wan(
        "wan2.2_t2v",
        "WanPipeline",
        "Wan-AI/Wan2.2-T2V-A14B-Diffusers",
        30,
        (480, 832, 49),
        5.0,
        variable="WAN_2_2_DIR",
        cache=TWO_EXPERTS,
    ),
    _wan(
        "wan2.1_i2v",
        "WanImageToVideoPipeline",
        "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
        50,
        (480, 832, 49),
        3.5,
        prompt=COMES_ALIVE,
        variable="WAN_I2V_DIR",
        images=START,
    ),
    _wan(
        "wan2.2_i2v",
        "WanImageToVideoPipeline",
        "Wan-AI/Wan2.2-I2V-A14B-Diffusers",
        50,
        (480, 832, 49),
        3.5,
        prompt=COMES_ALIVE,
        variable="WAN_2_2_I2V_DIR",
        images=START,
        cache=TWO_EXPERTS,
    ),
    _wan(
        "wan2.1_vace",
        "WanVACEPipeline",
        "Wan-AI/Wan2.1-VACE-1.3B-diffusers",
        30,
        (512, 512, 81),
        5.0,
        variable="WAN_VACE_DIR",
        images=Images("reference_images", needed=False, many=True),
    ),
    _wan(
        "wan2.2_vace",
        "WanVACEPipeline",
        "linoyts/Wan2.2-VACE-Fun-14B-diffusers",
        30,
        (512, 512, 81),
        5.0,
        variable="WAN_2_2_VACE_DIR",
        images=Images("reference_images", needed=False, many=True),
        cache=TWO_EXPERTS,
    ),
    _video(
        "skyreels_v2",
        "SkyReelsV2Pipeline",
        "Skywork/SkyReels-V2-T2V-14B-720P-Diffusers",
        50,
        (720, 1280, 21),
        {"guidance_scale": 6.0},
        prompt=BAKING,
    ),
    _ltx2("ltx2_t2v", "LTX2Pipeline", prompt=BAKING),
    _ltx2("ltx2_i2v", "LTX2ImageToVideoPipeline", prompt=COMES_ALIVE, images=START, saved_as=("LTX2Pipeline",)),
    _video(
        "helios_t2v",
        "HeliosPipeline",
        "BestWishYsh/Helios-Base",
        50,
        (384, 640, 49),
        {"guidance_scale": 5.0, "negative_prompt": WAN_NEGATIVE},
        prompt=BAKING,
        variable="HELIOS_DIR",
        fps=24,
    ),
    _video(
        "helios_t2v_distill",
        "HeliosPyramidPipeline",
        "BestWishYsh/Helios-Distilled",
        None,
        (384, 640, 49),
        {"guidance_scale": 1.0, "pyramid_num_inference_steps_list": [2, 2, 2], "is_amplify_first_chunk": True},
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
        {"guidance_scale": 6.0},
        prompt=BAKING,
        variable="COSMOS3_OMNI_DIR",
        fps=24,
        rate_argument="fps",
    ),
    _video(
        "anyflow_t2v",
        "AnyFlowPipeline",
        "nvidia/AnyFlow-Wan2.1-T2V-14B-Diffusers",
        4,
        (480, 832, 33),
        {"guidance_scale": 1.0},
        fps=16,
    ),
    _video(
        "anyflow_far",
        "AnyFlowFARPipeline",
        "nvidia/AnyFlow-FAR-Wan2.1-1.3B-Diffusers",
        4,
        (480, 832, 81),
        {"guidance_scale": 1.0},
        fps=16,
    ),
)
