"""A tiny Kandinsky 5: text-to-video, and with a picture to start from."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEADS, TEXT_DIM

FLOAT32_INSIDE = True  # its timestep embedding and modulation
VARIANTS = {"i2v": {"visual_cond": True}}


def build(
    batch: int, side: tuple[int, int], text: int, masked: bool, visual_cond: bool = False
) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.Kandinsky5Transformer3DModel(
        in_visual_dim=4, out_visual_dim=4, in_text_dim=TEXT_DIM, in_text_dim2=16, time_dim=20, model_dim=8 * HEADS,
        ff_dim=50, num_text_blocks=2, num_visual_blocks=2, axes_dims=(4, 2, 2), visual_cond=visual_cond,
    )  # fmt: skip
    return model, {
        "hidden_states": torch.randn(batch, 1, 2 * side[0], 2 * side[1], 9 if visual_cond else 4),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "pooled_projections": torch.randn(batch, 16),
        "timestep": torch.full((batch,), 500.0),
        "visual_rope_pos": [torch.arange(1), torch.arange(side[0]), torch.arange(side[1])],
        "text_rope_pos": torch.arange(text),
    }
