"""A tiny Helios: with a history at three scales, without one, with history that shares timestep, keys or text."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEADS, TEXT_DIM

VARIANTS = {
    "first": {"history": False},
    "same_timestep": {"zero_history_timestep": False},
    "text_for_all": {"guidance_cross_attn": False},
    "amplified": {"is_amplify_history": True, "history_scale_mode": "scalar"},
}


def build(
    batch: int, side: tuple[int, int], text: int, masked: bool, history: bool = True, **config: Any
) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.HeliosTransformer3DModel(
        num_attention_heads=HEADS, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=TEXT_DIM,
        freq_dim=16, ffn_dim=50, num_layers=2, rope_dim=(4, 4, 4), **config,
    )  # fmt: skip
    height, width = side
    inputs = {
        "hidden_states": torch.randn(batch, 4, 2, 2 * height, 2 * width),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "timestep": torch.full((batch,), 500),
    }
    if history:
        for name, frames, first in (("long", 4, 0), ("mid", 2, 4), ("short", 1, 6)):
            inputs[f"latents_history_{name}"] = torch.randn(batch, 4, frames, 2 * height, 2 * width)
            inputs[f"indices_latents_history_{name}"] = torch.arange(first, first + frames).expand(batch, -1)
        inputs["indices_hidden_states"] = torch.arange(7, 9).expand(batch, -1)
    return model, inputs
