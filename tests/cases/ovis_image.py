"""A tiny Ovis-Image."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM, positions


def build(batch: int, side: tuple[int, int], text: int, masked: bool) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.OvisImageTransformer2DModel(
        in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=HEAD_DIM, num_attention_heads=HEADS,
        joint_attention_dim=TEXT_DIM, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip
    return model, {
        "hidden_states": torch.randn(batch, side[0] * side[1], 4),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "timestep": torch.full((batch,), 0.5),
        "img_ids": positions(side, 3),
        "txt_ids": torch.zeros(text, 3),
    }
