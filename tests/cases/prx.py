"""A tiny PRX, and one of the size conditions and bottleneck of PRX-7B."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM

MASKED = True
VARIANTS = {"7b": {"bottleneck_size": 10, "resolution_embeds": True}}


def build(
    batch: int, side: tuple[int, int], text: int, masked: bool, **config: Any
) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.PRXTransformer2DModel(
        in_channels=4, context_in_dim=TEXT_DIM, hidden_size=HEADS * HEAD_DIM, mlp_ratio=3.3, num_heads=HEADS, depth=2,
        axes_dim=[4, 4], **config,
    )  # fmt: skip
    mask = None
    if masked:  # prompts of different length: each sample pads another number of tokens
        mask = torch.arange(text)[None] < torch.tensor([text - 1 - 3 * i for i in range(batch)])[:, None]
    return model, {
        "hidden_states": torch.randn(batch, 4, 2 * side[0], 2 * side[1]),
        "timestep": torch.full((batch,), 0.5),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "attention_mask": mask,
    }
