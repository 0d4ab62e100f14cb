"""A tiny Stable Diffusion 3, whose processors call torch's attention themselves."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM

VARIANTS = {
    "medium": {"dual_attention_layers": (0,), "qk_norm": "rms_norm"},
    "controlnet": {"controlnet": True},
}


def build(
    batch: int, side: tuple[int, int], text: int, masked: bool, controlnet: bool = False, **config: Any
) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, out_channels=4, num_layers=3, attention_head_dim=HEAD_DIM,
        num_attention_heads=HEADS, joint_attention_dim=TEXT_DIM, caption_projection_dim=HEADS * HEAD_DIM,
        pooled_projection_dim=16, pos_embed_max_size=12, **config,
    )  # fmt: skip
    residuals = [torch.randn(batch, side[0] * side[1], HEADS * HEAD_DIM)] if controlnet else None
    return model, {
        "hidden_states": torch.randn(batch, 4, 2 * side[0], 2 * side[1]),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "pooled_projections": torch.randn(batch, 16),
        "timestep": torch.full((batch,), 500.0),
        "block_controlnet_hidden_states": residuals,
    }
