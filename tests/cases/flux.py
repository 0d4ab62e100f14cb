"""A tiny FLUX.1, alone and with the residuals of a ControlNet."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM, positions

VARIANTS = {"controlnet": {"controlnet": True}}


def build(
    batch: int, side: tuple[int, int], text: int, masked: bool, controlnet: bool = False
) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.FluxTransformer2DModel(
        in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=HEAD_DIM, num_attention_heads=HEADS,
        joint_attention_dim=TEXT_DIM, pooled_projection_dim=16, guidance_embeds=True, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip
    residuals = [torch.randn(batch, side[0] * side[1], HEADS * HEAD_DIM)] if controlnet else None
    return model, {
        "hidden_states": torch.randn(batch, side[0] * side[1], 4),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "pooled_projections": torch.randn(batch, 16),
        "timestep": torch.full((batch,), 0.5),
        "guidance": torch.full((batch,), 3.5),
        "img_ids": positions(side, 3),
        "txt_ids": torch.zeros(text, 3),
        "controlnet_block_samples": residuals,
        "controlnet_single_block_samples": residuals,
    }
