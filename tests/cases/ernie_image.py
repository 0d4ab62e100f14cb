"""A tiny ERNIE-Image."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM

MASKED = True


def build(batch: int, side: tuple[int, int], text: int, masked: bool) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.ErnieImageTransformer2DModel(
        hidden_size=HEADS * HEAD_DIM, num_attention_heads=HEADS, num_layers=2, ffn_hidden_size=50, in_channels=4,
        out_channels=4, text_in_dim=TEXT_DIM, rope_axes_dim=(4, 2, 2),
    )  # fmt: skip
    return model, {
        "hidden_states": torch.randn(batch, 4, *side),
        "timestep": torch.full((batch,), 500.0),
        "text_bth": torch.randn(batch, text, TEXT_DIM),
        "text_lens": torch.tensor([text - 1 - 3 * i if masked else text for i in range(batch)]),
    }
