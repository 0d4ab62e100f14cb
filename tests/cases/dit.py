"""A tiny DiT, whose pictures are square."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS


def build(batch: int, side: tuple[int, int], text: int, masked: bool) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.DiTTransformer2DModel(
        in_channels=4, out_channels=8, num_layers=2, attention_head_dim=HEAD_DIM, num_attention_heads=HEADS,
        sample_size=16,
    )  # fmt: skip
    return model, {
        "hidden_states": torch.randn(batch, 4, 2 * side[0], 2 * side[0]),
        "timestep": torch.full((batch,), 500),
        "class_labels": torch.arange(batch),
    }
