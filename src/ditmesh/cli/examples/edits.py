"""The examples that change pictures, which they need by --image-path."""

from typing import Any

from ditmesh.cli.examples.lightning import LIGHTNING
from ditmesh.job.example import Example, Images, Lora

WIZARD = "Give the main subject a wizard's hat and a long blue cloak; keep everything else as it is."
WINTER = "Turn the scene into a winter evening with snow and warm window light; keep the composition."
FOUND_IN_THE_IMAGE = ""  # the pipeline describes the image itself
IMAGES = Images(many=True)


def _flux2_klein(
    name: str, file: str, steps: int, scale: float | None, pipeline: str = "Flux2KleinPipeline"
) -> Example:
    call = {} if scale is None else {"guidance_scale": scale}
    variable = f"{name.upper().replace('FLUX2', 'FLUX_2').removesuffix('_EDIT')}_DIR"
    return Example(
        name, pipeline, f"black-forest-labs/FLUX.2-klein-{file}", WIZARD, steps, variable, call=call, images=IMAGES
    )


def _qwen_edit(
    name: str, model: str, variable: str, steps: int = 50, scale: float = 4.0, side: int | None = 1024, **more: Any
) -> Example:
    call = {"true_cfg_scale": scale, "negative_prompt": " "} if scale > 1 else {"true_cfg_scale": scale}
    return Example(
        name,
        "QwenImageEditPlusPipeline",
        model,
        WINTER,
        steps,
        variable,
        height=side,
        width=side,
        call=call,
        images=IMAGES,
        **more,
    )


def _of_its_size(
    name: str, pipeline: str, model: str, prompt: str, steps: int, call: dict[str, Any], **more: Any
) -> Example:
    variable = f"{name.upper()}_DIR"
    return Example(name, pipeline, model, prompt, steps, variable, height=None, width=None, call=call, **more)


def _firered(version: str) -> Example:
    name, model = f"firered_image_edit_{version}", f"FireRedTeam/FireRed-Image-Edit-{version}"
    return _qwen_edit(name, model, f"{name.upper().replace('.', '_')}_DIR", 40, side=None, seed=43)


EDITS = (
    Example(
        "flux_fill",
        "FluxFillPipeline",
        "black-forest-labs/FLUX.1-Fill-dev",
        "A white paper cup",
        28,
        "FLUX_FILL_DIR",
        call={"guidance_scale": 30.0},
        images=Images(mask="mask_image"),
    ),
    _flux2_klein("flux2_klein_4b_edit", "4B", 4, 1.0),
    _flux2_klein("flux2_klein_9b_edit", "9B", 4, 1.0),
    _flux2_klein("flux2_klein_base_4b_edit", "base-4B", 50, 4.0),
    _flux2_klein("flux2_klein_base_9b_edit", "base-9B", 50, 4.0),
    _flux2_klein("flux2_klein_9b_kv_edit", "9b-kv", 4, None, "Flux2KleinKVPipeline"),
    _qwen_edit("qwen_image_edit", "Qwen/Qwen-Image-Edit-2509", "QWEN_IMAGE_EDIT_DIR"),
    _qwen_edit("qwen_image_edit_2511", "Qwen/Qwen-Image-Edit-2511", "QWEN_IMAGE_EDIT_2511_DIR"),
    _qwen_edit(
        "qwen_image_edit_lightning",
        "Qwen/Qwen-Image-Edit-2509",
        "QWEN_IMAGE_EDIT_DIR",
        steps=8,
        scale=1.0,
        cache=LIGHTNING,
        lora=Lora(
            "lightx2v/Qwen-Image-Lightning",
            {
                8: "Qwen-Image-Edit-2509/Qwen-Image-Edit-2509-Lightning-8steps-V1.0-bf16.safetensors",
                4: "Qwen-Image-Edit-2509/Qwen-Image-Edit-2509-Lightning-4steps-V1.0-bf16.safetensors",
            },
        ),
    ),
    _qwen_edit(
        "qwen_image_edit_2511_lightning",
        "Qwen/Qwen-Image-Edit-2511",
        "QWEN_IMAGE_EDIT_2511_DIR",
        steps=4,
        scale=1.0,
        cache=LIGHTNING,
        lora=Lora(
            "lightx2v/Qwen-Image-Edit-2511-Lightning",
            {4: "Qwen-Image-Edit-2511-Lightning-4steps-V1.0-bf16.safetensors"},
        ),
    ),
    _firered("1.0"),
    _firered("1.1"),
    _of_its_size(
        "qwen_image_layered",
        "QwenImageLayeredPipeline",
        "Qwen/Qwen-Image-Layered",
        FOUND_IN_THE_IMAGE,
        50,
        {"true_cfg_scale": 4.0, "negative_prompt": " ", "layers": 4, "resolution": 640, "use_en_prompt": True},
        images=Images(mode="RGBA"),
        layers=True,
    ),
    _of_its_size(
        "longcat_image_edit",
        "LongCatImageEditPipeline",
        "meituan-longcat/LongCat-Image-Edit",
        "Change the cat to a dog.",
        50,
        {"guidance_scale": 4.5},
        images=Images(),
        seed=43,
    ),
    Example(
        "glm_image_edit",
        "GlmImagePipeline",
        "zai-org/GLM-Image",
        WINTER,
        50,
        "GLM_IMAGE_DIR",
        call={"guidance_scale": 1.5},
        images=IMAGES,
    ),
    _of_its_size(
        "joy_image_edit",
        "JoyImageEditPipeline",
        "jdopensource/JoyAI-Image-Edit-Diffusers",
        "Add wings to the main subject.",
        40,
        {"guidance_scale": 4.0},
        images=Images(),
    ),
)
