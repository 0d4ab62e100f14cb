"""A tiny HunyuanVideo-1.5: text to video with an image of zeros, image to video, mean flow."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM, text_mask

MASKED = True
VARIANTS = {"image": {"image": True}, "mean_flow": {"use_meanflow": True}}


def build(
    batch: int, side: tuple[int, int], text: int, masked: bool, image: bool = False, use_meanflow: bool = False
) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.HunyuanVideo15Transformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=HEADS, attention_head_dim=HEAD_DIM, num_layers=2,
        num_refiner_layers=1, text_embed_dim=TEXT_DIM, text_embed_2_dim=12, image_embed_dim=12,
        rope_axes_dim=(2, 2, 4), use_meanflow=use_meanflow,
    )  # fmt: skip
    return model, {
        "hidden_states": torch.randn(batch, 4, 1, *side),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "encoder_attention_mask": text_mask(batch, text) if masked else torch.ones(batch, text, dtype=torch.bool),
        "encoder_hidden_states_2": torch.randn(batch, 5, 12),
        "encoder_attention_mask_2": torch.arange(5)[None].expand(batch, -1) < 3,
        "image_embeds": torch.randn(batch, 4, 12) if image else torch.zeros(batch, 4, 12),
        "timestep": torch.full((batch,), 500.0),
        "timestep_r": torch.full((batch,), 400.0) if use_meanflow else None,
    }
