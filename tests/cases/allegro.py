"""A tiny Allegro, of four frames."""

from typing import Any

import diffusers
import torch
from diffusers.models.embeddings import get_3d_rotary_pos_embed_allegro
from torch import nn

from tests.cases.common import HEADS, TEXT_DIM, text_mask

MASKED = True


def build(batch: int, side: tuple[int, int], text: int, masked: bool) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.AllegroTransformer3DModel(
        num_attention_heads=HEADS, attention_head_dim=12, in_channels=4, out_channels=4, num_layers=2,
        cross_attention_dim=12 * HEADS, sample_height=8, sample_width=8, sample_frames=4, caption_channels=TEXT_DIM,
    )  # fmt: skip
    *tables, _, _, _ = get_3d_rotary_pos_embed_allegro(12, ((0, 0), side), side, 4)
    grid = torch.cartesian_prod(torch.arange(4), torch.arange(side[0]), torch.arange(side[1]))
    return model, {
        "hidden_states": torch.randn(batch, 4, 4, 2 * side[0], 2 * side[1]),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "encoder_attention_mask": text_mask(batch, text).long() if masked else None,
        "timestep": torch.full((batch,), 500),
        "image_rotary_emb": (tuple(tables), tuple(grid.T[:, None].contiguous())),
    }
