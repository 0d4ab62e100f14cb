"""A tiny Chroma; its pipelines pass the padding mask as numbers, and a mask of booleans is as good."""

import warnings
from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM, positions, text_mask

MASKED = True
VARIANTS = {"boolean_mask": {"boolean": True}, "controlnet": {"controlnet": True}}


def build(
    batch: int, side: tuple[int, int], text: int, masked: bool, boolean: bool = False, controlnet: bool = False
) -> tuple[nn.Module, dict[str, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # diffusers of its own import
        model = diffusers.ChromaTransformer2DModel(
            in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=HEAD_DIM, num_attention_heads=HEADS,
            joint_attention_dim=TEXT_DIM, axes_dims_rope=(2, 2, 4),
            approximator_num_channels=16, approximator_hidden_dim=32, approximator_layers=2,
        )  # fmt: skip
    mask = None
    if masked or boolean:
        real = text_mask(batch, text) if masked else torch.arange(text)[None].expand(batch, -1) < text - 2
        mask = torch.cat([real, torch.ones(batch, side[0] * side[1], dtype=torch.bool)], dim=1)
    residuals = [torch.randn(batch, side[0] * side[1], HEADS * HEAD_DIM)] if controlnet else None
    return model, {
        "hidden_states": torch.randn(batch, side[0] * side[1], 4),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "timestep": torch.full((batch,), 0.5),
        "img_ids": positions(side, 3),
        "txt_ids": torch.zeros(text, 3),
        "attention_mask": mask if mask is None or boolean else mask.float(),
        "controlnet_block_samples": residuals,
        "controlnet_single_block_samples": residuals,
    }
