"""A tiny Qwen-Image."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM

MASKED = True
VARIANTS = {
    "edit": {"zero_cond_t": True},
    "layered": {"use_layer3d_rope": True},
    "controlnet": {"controlnet": True},
}


def build(
    batch: int, side: tuple[int, int], text: int, masked: bool, controlnet: bool = False, **config: Any
) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.QwenImageTransformer2DModel(
        in_channels=8, out_channels=2, num_layers=2, attention_head_dim=HEAD_DIM, num_attention_heads=HEADS,
        joint_attention_dim=TEXT_DIM, axes_dims_rope=(4, 2, 2), **config,
    )  # fmt: skip
    mask = None
    if masked:  # prompts of different length: each sample pads another number of tokens
        mask = torch.arange(text)[None] < torch.tensor([text - 1 - 3 * i for i in range(batch)])[:, None]
    shapes = [(1, *side)] + ([(1, 2, 3)] if config.get("zero_cond_t") else [])
    tokens = sum(frames * height * width for frames, height, width in shapes)
    return model, {
        "hidden_states": torch.randn(batch, tokens, 8),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "encoder_hidden_states_mask": mask,
        "timestep": torch.full((batch,), 0.5),
        "img_shapes": [shapes] * batch,
        "controlnet_block_samples": [torch.randn(batch, tokens, HEADS * HEAD_DIM)] if controlnet else None,
    }
