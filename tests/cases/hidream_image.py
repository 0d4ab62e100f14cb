"""A tiny HiDream-I1: with experts, whose square pictures need no padding, and without experts."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM

VARIANTS = {"square": {"square": True}, "no_experts": {"num_routed_experts": 0}}


def build(
    batch: int, side: tuple[int, int], text: int, masked: bool, square: bool = False, num_routed_experts: int = 2
) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.HiDreamImageTransformer2DModel(
        patch_size=2, in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=HEAD_DIM,
        num_attention_heads=HEADS, caption_channels=[TEXT_DIM, 16], text_emb_dim=16, axes_dims_rope=(4, 2, 2),
        num_routed_experts=num_routed_experts, num_activated_experts=1, max_resolution=(12, 12),
        llama_layers=[0, 1, 1, 2],
    )  # fmt: skip
    return model, {
        "hidden_states": torch.randn(batch, 4, 2 * side[0], 2 * side[0] if square else 2 * side[1]),
        "timesteps": torch.full((batch,), 500),
        "encoder_hidden_states_t5": torch.randn(batch, text, TEXT_DIM),
        "encoder_hidden_states_llama3": torch.randn(3, batch, text + 2, 16),
        "pooled_embeds": torch.randn(batch, 16),
    }
