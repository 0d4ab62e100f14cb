"""A tiny Mochi, which always takes a mask of its text."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM, text_mask

MASKED = True


def build(batch: int, side: tuple[int, int], text: int, masked: bool) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.MochiTransformer3DModel(
        patch_size=2, num_attention_heads=HEADS, attention_head_dim=HEAD_DIM, num_layers=3, pooled_projection_dim=24,
        in_channels=4, text_embed_dim=TEXT_DIM, time_embed_dim=16,
    )  # fmt: skip
    return model, {
        "hidden_states": torch.randn(batch, 4, 2, 2 * side[0], 2 * side[1]),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "encoder_attention_mask": text_mask(batch, text) if masked else torch.ones(batch, text, dtype=torch.bool),
        "timestep": torch.full((batch,), 500),
    }
