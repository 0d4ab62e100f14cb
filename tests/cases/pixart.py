"""A tiny PixArt: Sigma, and Alpha with its size conditions."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEADS, TEXT_DIM

MASKED = True
VARIANTS = {"alpha": {"use_additional_conditions": True}}


def build(
    batch: int, side: tuple[int, int], text: int, masked: bool, use_additional_conditions: bool = False
) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.PixArtTransformer2DModel(
        in_channels=4, out_channels=8, num_layers=2, attention_head_dim=12, num_attention_heads=HEADS,
        cross_attention_dim=HEADS * 12, caption_channels=TEXT_DIM, sample_size=16,
        use_additional_conditions=use_additional_conditions,
    )  # fmt: skip
    mask = None
    if masked:  # prompts of different length: each sample pads another number of tokens
        mask = torch.arange(text)[None] < torch.tensor([text - 1 - 3 * i for i in range(batch)])[:, None]
    size = {"resolution": torch.tensor([[64.0, 96.0]] * batch), "aspect_ratio": torch.tensor([[0.7]] * batch)}
    return model, {
        "hidden_states": torch.randn(batch, 4, 2 * side[0], 2 * side[1]),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "encoder_attention_mask": mask,
        "timestep": torch.full((batch,), 500),
        "added_cond_kwargs": size if use_additional_conditions else {"resolution": None, "aspect_ratio": None},
    }
