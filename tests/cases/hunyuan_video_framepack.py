"""A tiny FramePack, with the history of frames at three scales."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM, text_mask

MASKED = True


def build(batch: int, side: tuple[int, int], text: int, masked: bool) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.HunyuanVideoFramepackTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=HEADS, attention_head_dim=HEAD_DIM, num_layers=2,
        num_single_layers=2, num_refiner_layers=1, text_embed_dim=TEXT_DIM, pooled_projection_dim=16,
        rope_axes_dim=(2, 2, 4), has_image_proj=True, image_proj_dim=12, has_clean_x_embedder=True,
    )  # fmt: skip
    height, width = 2 * side[0], 2 * side[1]
    return model, {
        "hidden_states": torch.randn(batch, 4, 2, height, width),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "encoder_attention_mask": text_mask(batch, text) if masked else torch.ones(batch, text, dtype=torch.bool),
        "pooled_projections": torch.randn(batch, 16),
        "image_embeds": torch.randn(batch, 3, 12),
        "timestep": torch.full((batch,), 500),
        "guidance": torch.full((batch,), 6000.0),
        "indices_latents": torch.arange(9, 11),
        "latents_clean": torch.randn(batch, 4, 2, height, width),
        "indices_latents_clean": torch.tensor([0, 8]),
        "latents_history_2x": torch.randn(batch, 4, 2, height, width),
        "indices_latents_history_2x": torch.arange(6, 8),
        "latents_history_4x": torch.randn(batch, 4, 5, height, width),
        "indices_latents_history_4x": torch.arange(1, 6),
    }
