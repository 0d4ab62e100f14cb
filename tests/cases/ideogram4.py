"""A tiny Ideogram 4: padded prompts are segments of their own; a timestep may be given for every token."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM

MASKED = True
VARIANTS = {"timestep_a_token": {"per_token": True}}


def build(
    batch: int, side: tuple[int, int], text: int, masked: bool, per_token: bool = False
) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.Ideogram4Transformer2DModel(
        in_channels=4, num_layers=2, attention_head_dim=HEAD_DIM, num_attention_heads=HEADS, intermediate_size=50,
        adaln_dim=16, llm_features_dim=TEXT_DIM, rope_theta=1000, mrope_section=(2, 1, 1),
    )  # fmt: skip
    tokens = text + side[0] * side[1]
    segments = torch.ones(batch, tokens, dtype=torch.long)
    for i in range(batch if masked else 0):
        segments[i, : 1 + 3 * i] = -1
    return model, {
        "hidden_states": torch.randn(batch, tokens, 4),
        "timestep": torch.rand(batch, tokens) if per_token else torch.full((batch,), 0.5),
        "encoder_hidden_states": torch.randn(batch, tokens, TEXT_DIM),
        "position_ids": torch.arange(tokens)[None, :, None].repeat(batch, 1, 3),
        "segment_ids": segments,
        "indicator": torch.tensor([3] * text + [2] * (tokens - text)).repeat(batch, 1),
    }
