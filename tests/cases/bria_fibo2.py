"""A tiny Bria FIBO 2: images to edit, prompts with different numbers of gist tokens."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM, text_mask

MASKED = True
VARIANTS = {"edit": {"edit": True}}


def build(
    batch: int, side: tuple[int, int], text: int, masked: bool, edit: bool = False
) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.BriaFibo2Transformer2DModel(
        in_channels=4, dim=HEADS * HEAD_DIM, n_layers=3, n_refiner_layers=2, n_heads=HEADS, cap_feat_dim=TEXT_DIM,
        injection_layer_ids=(1,), perceiver_num_layers=1, min_num_gist_tokens=3, max_num_gist_tokens=9, gist_step=2,
        gist_min_text_len=5, gist_max_text_len=14, axes_dims=(4, 2, 2), axes_lens=(32, 32, 32),
    )  # fmt: skip
    return model, {
        "hidden_states": torch.randn(batch, 4, 2 * side[0], 2 * side[1]),
        "encoder_hidden_states": torch.randn(batch, 2, text, TEXT_DIM),
        "encoder_attention_mask": text_mask(batch, text) if masked else None,
        "context_latents": [torch.randn(batch, 4, 4, 6), torch.randn(batch, 4, 2, 2)] if edit else None,
        "timestep": torch.full((batch,), 0.5),
    }
