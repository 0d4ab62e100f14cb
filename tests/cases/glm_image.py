"""A tiny GLM-Image."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM, text_mask

MASKED = True


def build(batch: int, side: tuple[int, int], text: int, masked: bool) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.GlmImageTransformer2DModel(
        in_channels=4, out_channels=4, num_layers=2, attention_head_dim=HEAD_DIM, num_attention_heads=HEADS,
        text_embed_dim=TEXT_DIM, time_embed_dim=16, condition_dim=8, prior_vq_quantizer_codebook_size=20,
    )  # fmt: skip
    tokens = side[0] * side[1]
    return model, {
        "hidden_states": torch.randn(batch, 4, 2 * side[0], 2 * side[1]),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "attention_mask": text_mask(batch, text).float() if masked else None,
        "prior_token_id": torch.arange(batch * tokens).view(batch, tokens) % 20,
        "prior_token_drop": torch.arange(batch * tokens).view(batch, tokens) % 5 == 1,
        "timestep": torch.full((batch,), 500.0),
        "target_size": torch.tensor([[64.0, 64.0]] * batch),
        "crop_coords": torch.zeros(batch, 2),
    }
