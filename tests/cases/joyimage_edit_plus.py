"""A tiny JoyImage-Edit-Plus: images of several sizes, and samples padded to the longest."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM, text_mask

MASKED = True


def build(batch: int, side: tuple[int, int], text: int, masked: bool) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.JoyImageEditPlusTransformer3DModel(
        in_channels=4, hidden_size=HEADS * HEAD_DIM, num_attention_heads=HEADS, text_dim=TEXT_DIM, num_layers=2,
        rope_dim_list=[2, 2, 4],
    )  # fmt: skip
    references = [[] if masked and i == 0 else [(1, 2, 3)] for i in range(batch)]
    return model, {
        "hidden_states": torch.randn(batch, side[0] * side[1] + 6, 4, 1, 2, 2),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "encoder_hidden_states_mask": text_mask(batch, text).float() if masked else None,
        "shape_list": [[(1, *side), *others] for others in references],
        "timestep": torch.full((batch,), 500.0),
    }
