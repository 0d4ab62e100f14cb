"""Tiny Qwen-Image pipelines: double-stream blocks throughout, Qwen2.5-VL as the text encoder, a video VAE."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from diffusers import (
    DiffusionPipeline,
    QwenImageControlNetInpaintPipeline,
    QwenImageControlNetModel,
    QwenImageControlNetPipeline,
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    QwenImageLayeredPipeline,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)

from .parts import MASK, PICTURE, flow_scheduler, randomize
from .qwen import HIDDEN, qwen2_5_vl, qwen_image_vae, qwen_image_vae_16, qwen_processor, qwen_tokenizer

CALL: dict[str, Any] = {
    "prompt": "a photo of a red circle on a blue background",
    "negative_prompt": "a green square",
    "true_cfg_scale": 2.0,
    "num_inference_steps": 2,
    "height": 48,
    "width": 80,
}
# These pipelines scale what they edit to a megapixel, so their VAE compresses more; 3 x 5 tokens again.
CALL_EDIT: dict[str, Any] = {**CALL, "height": 96, "width": 160, "image": PICTURE}
CALL_EDIT_PLUS: dict[str, Any] = {**CALL_EDIT, "image": [PICTURE, PICTURE.rotate(90, expand=True)]}
CALL_LAYERED: dict[str, Any] = {
    **{key: value for key, value in CALL.items() if key not in ("height", "width")},
    "image": PICTURE.convert("RGBA"),
    "layers": 2,
}
CALL_CONTROL: dict[str, Any] = {**CALL, "control_image": PICTURE}
CALL_CONTROL_INPAINT: dict[str, Any] = {**CALL_CONTROL, "control_mask": MASK}


def build(path: Path) -> Path:
    return _save(QwenImagePipeline(**_common()), path)


def build_edit(path: Path) -> Path:
    return _save(QwenImageEditPipeline(**_common(qwen_image_vae_16), processor=_processor()), path)


def build_edit_plus(path: Path) -> Path:
    """Several pictures to edit, as Qwen-Image-Edit-2509 and later take them."""
    return _save(QwenImageEditPlusPipeline(**_common(qwen_image_vae_16), processor=_processor()), path)


def build_layered(path: Path) -> Path:
    """A picture taken apart into layers, which are drawn together."""
    parts = _common(partial(qwen_image_vae_16, input_channels=4), use_layer3d_rope=True, use_additional_t_cond=True)
    return _save(QwenImageLayeredPipeline(**parts, processor=_processor()), path)


def build_controlnet(path: Path) -> Path:
    return _save(QwenImageControlNetPipeline(**_common(), controlnet=_controlnet(seed=4)), path)


def build_controlnet_inpaint(path: Path) -> Path:
    """The mask comes in as one more latent channel."""
    controlnet = _controlnet(seed=4, extra_condition_channels=4)
    return _save(QwenImageControlNetInpaintPipeline(**_common(), controlnet=controlnet), path)


def _save(pipe: DiffusionPipeline, path: Path) -> Path:
    pipe.save_pretrained(path)
    return path


def _processor() -> Any:
    return qwen_processor(qwen_tokenizer())


def _common(vae: Callable[..., Any] = qwen_image_vae, **transformer: Any) -> dict[str, Any]:
    tokenizer = qwen_tokenizer()
    return {
        "scheduler": flow_scheduler(
            base_shift=0.5,
            max_shift=0.9,
            base_image_seq_len=256,
            max_image_seq_len=8192,
            shift_terminal=0.02,
            shift=1.0,
            time_shift_type="exponential",
        ),
        "vae": vae(seed=1),
        "text_encoder": qwen2_5_vl(tokenizer, seed=2),
        "tokenizer": tokenizer,
        "transformer": randomize(QwenImageTransformer2DModel(**_SIZES, **transformer), seed=3),
    }


_SIZES: dict[str, Any] = {
    "in_channels": 64,
    "out_channels": 16,
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 8,
    "joint_attention_dim": HIDDEN,
    "axes_dims_rope": (4, 6, 6),
}


def _controlnet(seed: int, **changed: Any) -> QwenImageControlNetModel:
    return randomize(QwenImageControlNetModel(**{**_SIZES, "num_layers": 1}, **changed), seed)
