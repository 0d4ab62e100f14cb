"""A tiny Krea 2, with half as many key and value heads."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM, positions

MASKED = True


def build(batch: int, side: tuple[int, int], text: int, masked: bool) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.Krea2Transformer2DModel(
        in_channels=4, num_layers=2, attention_head_dim=HEAD_DIM, num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2, intermediate_size=50, timestep_embed_dim=16, text_hidden_dim=TEXT_DIM,
        num_text_layers=3, text_num_attention_heads=3, text_num_key_value_heads=3, text_intermediate_size=20,
        num_layerwise_text_blocks=1, num_refiner_text_blocks=1, axes_dims_rope=(4, 2, 2),
    )  # fmt: skip
    mask = None
    if masked:  # prompts of different length: each sample pads another number of tokens
        mask = torch.arange(text)[None] < torch.tensor([text - 1 - 3 * i for i in range(batch)])[:, None]
    return model, {
        "hidden_states": torch.randn(batch, side[0] * side[1], 4),
        "encoder_hidden_states": torch.randn(batch, text, 3, TEXT_DIM),
        "encoder_attention_mask": mask,
        "timestep": torch.full((batch,), 0.5),
        "position_ids": torch.cat([torch.zeros(text, 3), positions(side, 3)]),
    }
