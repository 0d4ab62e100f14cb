"""A tiny JoyImage-Edit: one image, several, and text with positions."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM

VARIANTS = {"several": {"items": 2}, "text_positions": {"rope_type": "mrope"}}


def build(
    batch: int, side: tuple[int, int], text: int, masked: bool, items: int = 0, **config: Any
) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.JoyImageEditTransformer3DModel(
        in_channels=4, hidden_size=HEADS * HEAD_DIM, num_attention_heads=HEADS, text_dim=TEXT_DIM, num_layers=2,
        rope_dim_list=[2, 2, 4], **config,
    )  # fmt: skip
    shape = (4, 1, 2 * side[0], 2 * side[1])
    return model, {
        "hidden_states": torch.randn(batch, items, *shape) if items else torch.randn(batch, *shape),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "timestep": torch.full((batch,), 500.0),
    }
