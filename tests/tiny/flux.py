"""Tiny FLUX.1 pipelines: two double-stream and two single-stream blocks, 8 heads, guidance embedded."""

from pathlib import Path
from typing import Any

from diffusers import (
    DiffusionPipeline,
    FluxControlPipeline,
    FluxFillPipeline,
    FluxKontextPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
)

from .parts import (
    MASK,
    PICTURE,
    autoencoder_kl,
    clip_text_model,
    clip_tokenizer,
    flow_scheduler,
    randomize,
    t5_encoder,
    t5_tokenizer,
)

# 3 x 5 image tokens: no layout divides them evenly. T5 is given less than its 512 tokens to keep the tests short.
CALL: dict[str, Any] = {
    "prompt": "a photo of a red circle on a blue background",
    "negative_prompt": "a green square",
    "true_cfg_scale": 2.0,
    "guidance_scale": 3.5,
    "num_inference_steps": 2,
    "height": 48,
    "width": 80,
    "max_sequence_length": 21,
}


_PLAIN = {key: value for key, value in CALL.items() if key not in ("negative_prompt", "true_cfg_scale")}
CALL_FILL: dict[str, Any] = {**_PLAIN, "guidance_scale": 30.0, "image": PICTURE, "mask_image": MASK}
# Without `_auto_resize` the picture stays small; the real model wants one of its own sizes, of a megapixel each.
CALL_KONTEXT: dict[str, Any] = {**CALL, "image": PICTURE, "max_area": 48 * 80, "_auto_resize": False}
CALL_CONTROL: dict[str, Any] = {**_PLAIN, "control_image": PICTURE}


def build(path: Path) -> Path:
    return _save(FluxPipeline, path)


def build_fill(path: Path) -> Path:
    """The picture, with its masked part grey, and every pixel of the mask come in as channels."""
    return _save(FluxFillPipeline, path, in_channels=16 + 16 + 4 * 64)


def build_kontext(path: Path) -> Path:
    """The picture to edit comes in as further tokens."""
    return _save(FluxKontextPipeline, path)


def build_control(path: Path) -> Path:
    """The picture of what to draw comes in as channels."""
    return _save(FluxControlPipeline, path, in_channels=16 + 16)


def _save(kind: type[DiffusionPipeline], path: Path, in_channels: int = 16) -> Path:
    tokenizer, tokenizer_2 = clip_tokenizer(), t5_tokenizer(max_length=512)
    pipe = kind(
        scheduler=flow_scheduler(),
        vae=autoencoder_kl(seed=1),
        text_encoder=clip_text_model(tokenizer, seed=2),
        tokenizer=tokenizer,
        text_encoder_2=t5_encoder(tokenizer_2, seed=3),
        tokenizer_2=tokenizer_2,
        transformer=_transformer(seed=4, in_channels=in_channels),
    )
    pipe.save_pretrained(path)
    return path


def _transformer(seed: int, in_channels: int) -> FluxTransformer2DModel:
    transformer = FluxTransformer2DModel(
        in_channels=in_channels,
        out_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=8,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )
    return randomize(transformer, seed)
