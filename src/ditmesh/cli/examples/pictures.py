"""The examples that draw pictures from text, or along a control image."""

from pathlib import Path
from typing import Any

import ditmesh
from ditmesh.cli.examples.lightning import LIGHTNING
from ditmesh.job.example import CacheSettings, ControlNet, Example, Images, Lora

CAT_SIGN = "A cat holding a sign that says hello world"
COFFEE_SHOP = (
    'A coffee shop entrance with a chalkboard sign reading "Qwen Coffee", a neon light beside it, '
    "and a poster of a smiling woman; ultra HD, 4K, cinematic composition."
)
MARKET = "A flower market at dawn in the rain, reflections on the cobblestones, photograph, 35 mm"
LIGHTHOUSE_JSON = (
    '{"short_description": "A white lighthouse on a cliff above a stormy sea at dusk", "objects": '
    '[{"description": "a white lighthouse with a red lantern room", "location": "right third"}], '
    '"lighting": {"conditions": "dusk", "direction": "from the lantern"}, "style_medium": "photograph"}'
)
REFERENCES = Images(needed=False, many=True)
CONTROL = Images("control_image")


def _flux2_klein(name: str, size: str, base: bool) -> Example:
    model = f"black-forest-labs/FLUX.2-klein-{'base-' if base else ''}{size}"
    steps, scale = (50, 4.0) if base else (4, 1.0)
    variable = f"{name.upper().replace('FLUX2', 'FLUX_2')}_DIR"
    call = {"guidance_scale": scale}
    return Example(name, "Flux2KleinPipeline", model, CAT_SIGN, steps, variable, call=call, images=REFERENCES)


def _qwen_image(name: str, model: str, steps: int = 50, scale: float = 4.0, **more: Any) -> Example:
    call = {"true_cfg_scale": scale, "negative_prompt": " "} if scale > 1 else {"true_cfg_scale": scale}
    variable = f"{name.upper().removesuffix('_LIGHTNING')}_DIR"
    return Example(name, "QwenImagePipeline", model, COFFEE_SHOP, steps, variable, call=call, **more)


def _zimage_controlnet(version: str) -> Example:
    name = f"Z-Image-Turbo-Fun-Controlnet-Union-{version}"
    return Example(
        f"zimage_turbo_controlnet_{version}",
        "ZImageControlNetPipeline",
        "Tongyi-MAI/Z-Image-Turbo",
        "A dancer in a red coat on a beach at sunset, photograph",
        9,
        "ZIMAGE_TURBO_DIR",
        height=1728,
        width=992,
        call={"guidance_scale": 0.0, "controlnet_conditioning_scale": 0.75},
        images=CONTROL,
        controlnet=ControlNet("ZImageControlNetModel", f"alibaba-pai/{name}", f"{name}.safetensors"),
        saved_as=("ZImagePipeline",),
        seed=43,
    )


def _simple(
    name: str, pipeline: str, model: str, steps: int, guidance: float, prompt: str = MARKET, **more: Any
) -> Example:
    call = {"guidance_scale": guidance, **more.pop("call", {})}
    return Example(name, pipeline, model, prompt, steps, f"{name.upper()}_DIR", call=call, **more)


DEMO = Example(
    "demo",
    "FluxPipeline",
    str(Path(ditmesh.__file__).parent / "demo_model"),
    "a large red circle in the centre on a white background",
    steps=28,
    height=128,
    width=128,
    call={"true_cfg_scale": 3.0, "negative_prompt": "", "max_sequence_length": 32},
    warmup=0,
    dtype="float32",
)
PICTURES = (
    DEMO,
    Example("flux", "FluxPipeline", "black-forest-labs/FLUX.1-dev", CAT_SIGN, 28, "FLUX_DIR"),
    Example(
        "flux2",
        "Flux2Pipeline",
        "black-forest-labs/FLUX.2-dev",
        CAT_SIGN,
        28,
        "FLUX_2_DIR",
        call={"guidance_scale": 4.0},
        images=REFERENCES,
        cache=CacheSettings(factors=(1.0, 3.0)),  # the single blocks' residual moves more
    ),
    _flux2_klein("flux2_klein_4b", "4B", base=False),
    _flux2_klein("flux2_klein_9b", "9B", base=False),
    _flux2_klein("flux2_klein_base_4b", "4B", base=True),
    _flux2_klein("flux2_klein_base_9b", "9B", base=True),
    _qwen_image("qwen_image", "Qwen/Qwen-Image"),
    _qwen_image("qwen_image_2512", "Qwen/Qwen-Image-2512"),
    _qwen_image(
        "qwen_image_lightning",
        "Qwen/Qwen-Image",
        steps=8,
        scale=1.0,
        lora=Lora(
            "lightx2v/Qwen-Image-Lightning",
            {
                8: "Qwen-Image-Lightning-8steps-V1.1-bf16.safetensors",
                4: "Qwen-Image-Lightning-4steps-V1.0-bf16.safetensors",
            },
        ),
        cache=LIGHTNING,
    ),
    Example(
        "qwen_image_controlnet",
        "QwenImageControlNetInpaintPipeline",
        "Qwen/Qwen-Image",
        "A green taxi drives down the street",
        50,
        "QWEN_IMAGE_DIR",
        call={"true_cfg_scale": 4.0, "negative_prompt": " ", "controlnet_conditioning_scale": 1.0},
        images=Images("control_image", "control_mask"),
        controlnet=ControlNet("QwenImageControlNetModel", "InstantX/Qwen-Image-ControlNet-Inpainting"),
        saved_as=("QwenImagePipeline",),
    ),
    _simple("zimage", "ZImagePipeline", "Tongyi-MAI/Z-Image", 50, 4.0, height=1280, width=720),
    _simple("zimage_turbo", "ZImagePipeline", "Tongyi-MAI/Z-Image-Turbo", 9, 0.0),
    _zimage_controlnet("2.0"),
    _zimage_controlnet("2.1"),
    _simple("ovis_image", "OvisImagePipeline", "AIDC-AI/Ovis-Image-7B", 25, 5.0),
    _simple("longcat_image", "LongCatImagePipeline", "meituan-longcat/LongCat-Image", 50, 4.5, height=768, width=1344),
    _simple("glm_image", "GlmImagePipeline", "zai-org/GLM-Image", 50, 1.5, images=REFERENCES),
    Example(
        "cosmos3_omni_t2i",
        "Cosmos3OmniPipeline",
        "nvidia/Cosmos3-Nano",
        MARKET,
        35,
        "COSMOS3_OMNI_DIR",
        height=480,
        width=832,
        call={"guidance_scale": 6.0, "num_frames": 1},
    ),
    _simple("ernie_image", "ErnieImagePipeline", "baidu/ERNIE-Image", 50, 4.0),
    _simple("ernie_image_turbo", "ErnieImagePipeline", "baidu/ERNIE-Image-Turbo", 8, 1.0),
    _simple("krea2", "Krea2Pipeline", "krea/Krea-2-Turbo", 8, 0.0),
    _simple("bria_fibo", "BriaFiboPipeline", "briaai/FIBO", 28, 5.0, prompt=LIGHTHOUSE_JSON),
)
