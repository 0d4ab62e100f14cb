"""A tiny Stable Audio, with half as many key and value heads."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM


def build(batch: int, side: tuple[int, int], text: int, masked: bool) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.StableAudioDiTModel(
        sample_size=64, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=HEAD_DIM,
        num_attention_heads=HEADS, num_key_value_attention_heads=HEADS // 2, cross_attention_dim=32,
        time_proj_dim=16, global_states_input_dim=16, cross_attention_input_dim=TEXT_DIM,
    )  # fmt: skip
    tokens = side[0] * side[1]
    return model, {
        "hidden_states": torch.randn(batch, 4, tokens),
        "timestep": torch.full((batch,), 0.5),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "global_hidden_states": torch.randn(batch, 1, 16),
        "rotary_embedding": (torch.randn(tokens + 1, HEAD_DIM // 2), torch.randn(tokens + 1, HEAD_DIM // 2)),
    }
