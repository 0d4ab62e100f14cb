"""A tiny Nucleus-Image, with half as many key and value heads and experts in the second block, and one without."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM

MASKED = True
VARIANTS = {"dense": {"moe_enabled": False}, "all_heads": {"num_key_value_heads": None}}


def build(
    batch: int, side: tuple[int, int], text: int, masked: bool, **config: Any
) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.NucleusMoEImageTransformer2DModel(
        in_channels=4, out_channels=1, num_layers=2, attention_head_dim=HEAD_DIM, num_attention_heads=HEADS,
        joint_attention_dim=TEXT_DIM, axes_dims_rope=(4, 2, 2), dense_moe_strategy="leave_first_block_dense",
        num_experts=3, moe_intermediate_dim=25, capacity_factors=1.5,
        **{"num_key_value_heads": HEADS // 2} | config,
    )  # fmt: skip
    mask = None
    if masked:  # prompts of different length: each sample pads another number of tokens
        mask = torch.arange(text)[None] < torch.tensor([text - 1 - 3 * i for i in range(batch)])[:, None]
    return model, {
        "hidden_states": torch.randn(batch, side[0] * side[1], 4),
        "img_shapes": [(1, *side)] * batch,
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "encoder_hidden_states_mask": mask,
        "timestep": torch.full((batch,), 0.5),
    }
