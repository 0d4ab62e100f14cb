"""A tiny Motif-Video: with cross-attention to the text, and image to video."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM, text_mask

MASKED = True
VARIANTS = {
    "cross_attention": {"enable_text_cross_attention_dual": True, "enable_text_cross_attention_single": True},
    "first_frame": {"image_embed_dim": 12, "enable_text_cross_attention_dual": True},
}


def build(
    batch: int, side: tuple[int, int], text: int, masked: bool, **config: Any
) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.MotifVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=HEADS, attention_head_dim=HEAD_DIM, num_layers=2,
        num_single_layers=2, text_embed_dim=TEXT_DIM, rope_axes_dim=(2, 2, 4), **config,
    )  # fmt: skip
    return model, {
        "hidden_states": torch.randn(batch, 4, 1, 2 * side[0], 2 * side[1]),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "encoder_attention_mask": text_mask(batch, text) if masked else None,
        "image_embeds": torch.randn(batch, 5, 12) if "image_embed_dim" in config else None,
        "timestep": torch.full((batch,), 500),
    }
