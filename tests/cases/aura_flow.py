"""A tiny AuraFlow, whose processors call torch's attention themselves."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM


def build(batch: int, side: tuple[int, int], text: int, masked: bool) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.AuraFlowTransformer2DModel(
        sample_size=16, in_channels=4, out_channels=4, num_mmdit_layers=2, num_single_dit_layers=2,
        attention_head_dim=HEAD_DIM, num_attention_heads=HEADS, joint_attention_dim=TEXT_DIM,
        caption_projection_dim=HEADS * HEAD_DIM, pos_embed_max_size=100,
    )  # fmt: skip
    return model, {
        "hidden_states": torch.randn(batch, 4, 2 * side[0], 2 * side[1]),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "timestep": torch.full((batch,), 0.5),
    }
