"""A tiny CogView3-Plus."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM


def build(batch: int, side: tuple[int, int], text: int, masked: bool) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.CogView3PlusTransformer2DModel(
        in_channels=4, out_channels=4, num_layers=2, attention_head_dim=HEAD_DIM, num_attention_heads=HEADS,
        text_embed_dim=TEXT_DIM, time_embed_dim=16, condition_dim=8, pos_embed_max_size=12,
    )  # fmt: skip
    return model, {
        "hidden_states": torch.randn(batch, 4, 2 * side[0], 2 * side[1]),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "timestep": torch.full((batch,), 500),
        "original_size": torch.tensor([[64.0, 96.0]] * batch),
        "target_size": torch.tensor([[64.0, 96.0]] * batch),
        "crop_coords": torch.tensor([[0.0, 8.0]] * batch),
    }
