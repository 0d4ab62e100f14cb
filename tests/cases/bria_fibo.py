"""A tiny Bria FIBO; a mask of every token against every other, as its pipeline makes it."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM, positions, text_mask

MASKED = True
VARIANTS = {"guidance": {"guidance_embeds": True}}


def build(
    batch: int, side: tuple[int, int], text: int, masked: bool, guidance_embeds: bool = False
) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.BriaFiboTransformer2DModel(
        in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=HEAD_DIM, num_attention_heads=HEADS,
        joint_attention_dim=TEXT_DIM, axes_dims_rope=(2, 2, 4),
        text_encoder_dim=12, guidance_embeds=guidance_embeds,
    )  # fmt: skip
    kwargs = None
    if masked:
        real = torch.cat([text_mask(batch, text), torch.ones(batch, side[0] * side[1], dtype=torch.bool)], dim=1)
        both = real[:, None, :, None] & real[:, None, None]
        kwargs = {"attention_mask": torch.where(both, 0.0, -torch.inf)}
    return model, {
        "hidden_states": torch.randn(batch, side[0] * side[1], 4),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "timestep": torch.full((batch,), 500.0),
        "img_ids": positions(side, 3),
        "txt_ids": torch.zeros(text, 3),
        "text_encoder_layers": [torch.randn(batch, text, 12) for _ in range(4)],
        "guidance": torch.full((batch,), 5.0) if guidance_embeds else None,
        "joint_attention_kwargs": kwargs,
    }
