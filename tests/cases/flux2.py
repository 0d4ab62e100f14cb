"""A tiny FLUX.2."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM, positions

VARIANTS = {"mlp_ratio_4": {"mlp_ratio": 4.0}}


def build(
    batch: int, side: tuple[int, int], text: int, masked: bool, mlp_ratio: float = 3.0
) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.Flux2Transformer2DModel(
        in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=HEAD_DIM, num_attention_heads=HEADS,
        joint_attention_dim=TEXT_DIM, timestep_guidance_channels=16, mlp_ratio=mlp_ratio, axes_dims_rope=(2, 2, 2, 2),
    )  # fmt: skip
    return model, {
        "hidden_states": torch.randn(batch, side[0] * side[1], 4),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "timestep": torch.full((batch,), 0.5),
        "guidance": torch.full((batch,), 4.0),
        "img_ids": positions(side, 4)[None].expand(batch, -1, -1),
        "txt_ids": torch.zeros(batch, text, 4),
    }
