"""A tiny HunyuanVideo: text to video, image to video by its first frame at timestep zero."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM, text_mask

MASKED = True
VARIANTS = {"first_frame": {"image_condition_type": "token_replace"}, "undistilled": {"guidance_embeds": False}}


def build(
    batch: int, side: tuple[int, int], text: int, masked: bool, **config: Any
) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=HEADS, attention_head_dim=HEAD_DIM, num_layers=2,
        num_single_layers=2, num_refiner_layers=1, text_embed_dim=TEXT_DIM, pooled_projection_dim=16,
        rope_axes_dim=(2, 2, 4), **config,
    )  # fmt: skip
    frames = 2 if config.get("image_condition_type") else 1
    return model, {
        "hidden_states": torch.randn(batch, 4, frames, 2 * side[0], 2 * side[1]),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "encoder_attention_mask": text_mask(batch, text) if masked else torch.ones(batch, text, dtype=torch.bool),
        "pooled_projections": torch.randn(batch, 16),
        "timestep": torch.full((batch,), 500),
        "guidance": torch.full((batch,), 6000.0) if config.get("guidance_embeds", True) else None,
    }
