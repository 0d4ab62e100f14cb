"""A tiny ChronoEdit, of two frames (positions with a gap) or one, with image embeddings as its checkpoints have."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM

VARIANTS = {"one_frame": {"frames": 1}, "text_only": {"image": False}}


def build(
    batch: int, side: tuple[int, int], text: int, masked: bool, frames: int = 2, image: bool = True
) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.ChronoEditTransformer3DModel(
        num_attention_heads=HEADS, attention_head_dim=HEAD_DIM, in_channels=4, out_channels=4, text_dim=TEXT_DIM,
        freq_dim=16, ffn_dim=50, num_layers=2, rope_max_seq_len=32, image_dim=12 if image else None,
        added_kv_proj_dim=HEADS * HEAD_DIM if image else None,
    )  # fmt: skip
    return model, {
        "hidden_states": torch.randn(batch, 4, frames, 2 * side[0], 2 * side[1]),
        # With an image, the processor takes the last 512 tokens for the text.
        "encoder_hidden_states": torch.randn(batch, 512 if image else text, TEXT_DIM),
        "encoder_hidden_states_image": torch.randn(batch, 5, 12) if image else None,
        "timestep": torch.full((batch,), 500),
    }
