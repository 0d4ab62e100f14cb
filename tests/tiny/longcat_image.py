"""Tiny LongCat-Image pipelines: double- and single-stream blocks, Qwen2.5-VL as the text encoder."""

from pathlib import Path
from typing import Any

from diffusers import LongCatImageEditPipeline, LongCatImagePipeline, LongCatImageTransformer2DModel

from .parts import GUIDED, PICTURE, autoencoder_kl, flow_scheduler, randomize
from .qwen import HIDDEN, qwen2_5_vl, qwen_processor, qwen_tokenizer

# Rewriting the prompt would generate 512 tokens.
CALL: dict[str, Any] = {**GUIDED, "enable_prompt_rewrite": False}
# What it edits and what it draws is a megapixel, whatever is asked for.
CALL_EDIT: dict[str, Any] = {
    **{key: value for key, value in CALL.items() if key not in ("height", "width", "enable_prompt_rewrite")},
    "image": PICTURE,
    "num_inference_steps": 1,
}


def build(path: Path) -> Path:
    LongCatImagePipeline(**_common()).save_pretrained(path)
    return path


def build_edit(path: Path) -> Path:
    """The picture to edit comes in as further tokens, and through the text encoder."""
    LongCatImageEditPipeline(**_common(levels=5)).save_pretrained(path)
    return path


def _common(levels: int = 4) -> dict[str, Any]:
    tokenizer = qwen_tokenizer()
    transformer = LongCatImageTransformer2DModel(
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=8,
        joint_attention_dim=HIDDEN,
        pooled_projection_dim=HIDDEN,
        axes_dims_rope=[2, 2, 4],
    )
    return {
        "scheduler": flow_scheduler(),
        "vae": autoencoder_kl(seed=1, levels=levels, latent_channels=16),
        "text_encoder": qwen2_5_vl(tokenizer, seed=2),
        "tokenizer": tokenizer,
        "text_processor": qwen_processor(tokenizer),
        "transformer": randomize(transformer, seed=3),
    }
