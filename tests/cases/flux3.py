"""A tiny FLUX.3: with reference images, and as a flow map."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM, positions

VARIANTS = {"reference": {"reference": True}, "flow_map": {"flow_map": True}}


def build(
    batch: int, side: tuple[int, int], text: int, masked: bool, reference: bool = False, flow_map: bool = False
) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.Flux3Transformer2DModel(
        in_channels=4, cond_in_channels=6, num_layers=2, num_single_layers=2, attention_head_dim=HEAD_DIM,
        num_attention_heads=HEADS, joint_attention_dim=TEXT_DIM, timestep_channels=16, axes_dims_rope=(2, 2, 2, 2),
        flow_map=flow_map,
    )  # fmt: skip
    inputs = {
        "hidden_states": torch.randn(batch, side[0] * side[1], 4),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "timestep": torch.full((batch,), 0.5),
        "target_timestep": torch.full((batch,), 0.25) if flow_map else None,
        "img_ids": positions(side, 4),
        "txt_ids": torch.arange(text)[:, None].expand(-1, 4).float(),
    }
    if reference:
        ids = positions((2, 5), 4) + torch.tensor([10.0, 0, 0, 0])
        inputs |= {"image_cond_hidden_states": torch.randn(batch, 10, 6), "image_cond_ids": ids}
    return model, inputs
