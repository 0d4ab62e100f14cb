"""A tiny LTX-Video: text-to-video, and image-to-video with a timestep a token."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM, text_mask

MASKED = True
VARIANTS = {"i2v": {"per_token": True}, "one_timestep": {"column": True}, "affine": {"norm_elementwise_affine": True}}


def build(
    batch: int, side: tuple[int, int], text: int, masked: bool, per_token: bool = False, column: bool = False,
    **config: Any,
) -> tuple[nn.Module, dict[str, Any]]:  # fmt: skip
    model = diffusers.LTXVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=HEADS, attention_head_dim=HEAD_DIM, num_layers=2,
        cross_attention_dim=HEADS * HEAD_DIM, caption_channels=TEXT_DIM, **config,
    )  # fmt: skip
    tokens = side[0] * side[1]
    timestep = torch.full((batch,), 500.0)
    if per_token:
        timestep = torch.arange(batch * tokens).view(batch, tokens) % 3 * 300.0
    return model, {
        "hidden_states": torch.randn(batch, tokens, 4),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "timestep": timestep[:, None] if column else timestep,
        "encoder_attention_mask": text_mask(batch, text).long() if masked else None,
        "num_frames": 1,
        "height": side[0],
        "width": side[1],
        "rope_interpolation_scale": (0.5, 32.0, 32.0),
    }
