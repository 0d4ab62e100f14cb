"""A tiny Lumina-Image 2.0, with half as many key and value heads."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM

MASKED = True


def build(batch: int, side: tuple[int, int], text: int, masked: bool) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.Lumina2Transformer2DModel(
        in_channels=4, hidden_size=HEADS * HEAD_DIM, num_layers=2, num_refiner_layers=2, num_attention_heads=HEADS,
        num_kv_heads=HEADS // 2, multiple_of=10, axes_dim_rope=(4, 2, 2), axes_lens=(64, 16, 16),
        cap_feat_dim=TEXT_DIM,
    )  # fmt: skip
    lengths = torch.tensor([text - 1 - 3 * i if masked else text for i in range(batch)])
    return model, {
        "hidden_states": torch.randn(batch, 4, 2 * side[0], 2 * side[1]),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "encoder_attention_mask": torch.arange(text)[None] < lengths[:, None],
        "timestep": torch.full((batch,), 0.5),
    }
