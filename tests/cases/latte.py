"""A tiny Latte: three frames, and one."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM

VARIANTS = {"one_frame": {"frames": 1}, "still": {"enable_temporal_attentions": False}}


def build(
    batch: int, side: tuple[int, int], text: int, masked: bool, frames: int = 3, **inputs: Any
) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.LatteTransformer3DModel(
        num_attention_heads=HEADS, attention_head_dim=HEAD_DIM, in_channels=4, out_channels=4, num_layers=2,
        cross_attention_dim=HEADS * HEAD_DIM, attention_bias=True, sample_size=16, patch_size=2, video_length=frames,
        activation_fn="gelu-approximate", norm_type="ada_norm_single", num_embeds_ada_norm=1000,
        norm_elementwise_affine=False, caption_channels=TEXT_DIM,
    )  # fmt: skip
    return model, inputs | {
        "hidden_states": torch.randn(batch, 4, frames, 2 * side[0], 2 * side[1]),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "timestep": torch.full((batch,), 500),
    }
