"""A tiny HunyuanImage: with glyphs from a second text encoder, and distilled."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM, text_mask

MASKED = True
VARIANTS = {"glyphs": {"text_embed_2_dim": 12}, "distilled": {"guidance_embeds": True, "use_meanflow": True}}


def build(
    batch: int, side: tuple[int, int], text: int, masked: bool, **config: Any
) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.HunyuanImageTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=HEADS, attention_head_dim=HEAD_DIM, num_layers=2,
        num_single_layers=2, num_refiner_layers=1, text_embed_dim=TEXT_DIM, rope_axes_dim=(4, 4), **config,
    )  # fmt: skip
    distilled, glyphs = "use_meanflow" in config, "text_embed_2_dim" in config
    return model, {
        "hidden_states": torch.randn(batch, 4, *side),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "encoder_attention_mask": text_mask(batch, text) if masked else torch.ones(batch, text, dtype=torch.bool),
        "encoder_hidden_states_2": torch.randn(batch, 5, 12) if glyphs else None,
        "encoder_attention_mask_2": torch.arange(5)[None].expand(batch, -1) < 3 if glyphs else None,
        "timestep": torch.full((batch,), 500.0),
        "timestep_r": torch.full((batch,), 400.0) if distilled else None,
        "guidance": torch.full((batch,), 3500.0) if distilled else None,
    }
