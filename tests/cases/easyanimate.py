"""A tiny EasyAnimate: text-to-video, with a second text encoder, with latents to inpaint, with a norm after each."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEADS, TEXT_DIM

VARIANTS = {"two_texts": {"text_embed_dim_t5": 10}, "inpaint": {"inpaint": 5}, "after_norm": {"after_norm": True}}


def build(
    batch: int, side: tuple[int, int], text: int, masked: bool, inpaint: int = 0, **config: Any
) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.EasyAnimateTransformer3DModel(
        num_attention_heads=HEADS, attention_head_dim=16, in_channels=4 + inpaint, out_channels=4, patch_size=2,
        num_layers=2, mmdit_layers=2, time_embed_dim=20, text_embed_dim=TEXT_DIM, **config,
    )  # fmt: skip
    t5 = torch.randn(batch, 3, 10) if config.get("text_embed_dim_t5") else None
    return model, {
        "hidden_states": torch.randn(batch, 4, 2, 2 * side[0], 2 * side[1]),
        "timestep": torch.full((batch,), 500),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "encoder_hidden_states_t5": t5,
        "inpaint_latents": torch.randn(batch, inpaint, 2, 2 * side[0], 2 * side[1]) if inpaint else None,
    }
