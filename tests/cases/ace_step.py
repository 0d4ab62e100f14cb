"""A tiny ACE-Step 1.5, with a window narrower than the audio and half as many key and value heads."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM


def build(batch: int, side: tuple[int, int], text: int, masked: bool) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.AceStepTransformer1DModel(
        hidden_size=40, intermediate_size=50, num_hidden_layers=2, num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2, head_dim=HEAD_DIM, in_channels=12, audio_acoustic_hidden_dim=4,
        sliding_window=3, encoder_hidden_size=TEXT_DIM,
    )  # fmt: skip
    frames = 2 * side[0] * side[1] - 1
    return model, {
        "hidden_states": torch.randn(batch, frames, 4),
        "timestep": torch.full((batch,), 0.5),
        "timestep_r": torch.full((batch,), 0.25),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "context_latents": torch.randn(batch, frames, 8),
    }
