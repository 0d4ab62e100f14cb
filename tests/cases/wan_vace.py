"""A tiny Wan VACE, whose control blocks feed some of its blocks."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM

VARIANTS = {"long_text": {"tokens": 512}, "no_cross_norm": {"cross_attn_norm": False}}


def build(
    batch: int, side: tuple[int, int], text: int, masked: bool, tokens: int | None = None, **config: Any
) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.WanVACETransformer3DModel(
        num_attention_heads=HEADS, attention_head_dim=HEAD_DIM, in_channels=4, out_channels=4, text_dim=TEXT_DIM,
        freq_dim=16, ffn_dim=50, num_layers=3, rope_max_seq_len=32, vace_layers=[0, 2], vace_in_channels=6, **config,
    )  # fmt: skip
    return model, {
        "hidden_states": torch.randn(batch, 4, 1, 2 * side[0], 2 * side[1]),
        "encoder_hidden_states": torch.randn(batch, tokens or text, TEXT_DIM),
        "control_hidden_states": torch.randn(batch, 6, 1, 2 * side[0], 2 * side[1]),
        "control_hidden_states_scale": torch.tensor([0.7, 1.3]),
        "timestep": torch.full((batch,), 500),
    }
