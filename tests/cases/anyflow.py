"""A tiny AnyFlow, of two frames with a timestep each, with and without image embeddings."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM

FLOAT32_INSIDE = True  # its norms average in float32, whatever the dtype
VARIANTS = {"i2v": {"image": True}, "difference": {"deltatime_type": "t-r"}}


def build(
    batch: int, side: tuple[int, int], text: int, masked: bool, image: bool = False, **config: Any
) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.AnyFlowTransformer3DModel(
        num_attention_heads=HEADS, attention_head_dim=HEAD_DIM, in_channels=4, out_channels=4, text_dim=TEXT_DIM,
        freq_dim=16, ffn_dim=50, num_layers=2, rope_max_seq_len=32, image_dim=12 if image else None, **config,
    )  # fmt: skip
    timestep = torch.tensor([[100.0, 600.0]]).expand(batch, 2)
    return model, {
        "hidden_states": torch.randn(batch, 2, 4, 2 * side[0], 2 * side[1]),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "encoder_hidden_states_image": torch.randn(batch, 5, 12) if image else None,
        "timestep": timestep,
        "r_timestep": timestep / 2,
    }
