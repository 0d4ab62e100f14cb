"""A tiny CogVideoX: with RoPE, with sinusoidal positions (2b), with patches of time (1.5), with learned positions."""

from typing import Any

import diffusers
import torch
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM

VARIANTS = {
    "sinusoidal": {"use_rotary_positional_embeddings": False},
    "v1_5": {"patch_size_t": 2, "ofs_embed_dim": 20},
    "learned": {"use_learned_positional_embeddings": True},
}


def build(
    batch: int, side: tuple[int, int], text: int, masked: bool, use_rotary_positional_embeddings: bool = True,
    **config: Any,
) -> tuple[nn.Module, dict[str, Any]]:  # fmt: skip
    frames = config.get("patch_size_t") or 1
    model = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=HEADS, attention_head_dim=2 * HEAD_DIM, in_channels=4, out_channels=4, time_embed_dim=20,
        text_embed_dim=TEXT_DIM, num_layers=2, sample_width=2 * side[1], sample_height=2 * side[0], sample_frames=1,
        max_text_seq_length=text, use_rotary_positional_embeddings=use_rotary_positional_embeddings, **config,
    )  # fmt: skip
    rope = None
    if use_rotary_positional_embeddings:
        rope = get_3d_rotary_pos_embed(2 * HEAD_DIM, ((0, 0), side), side, 1)
    return model, {
        "hidden_states": torch.randn(batch, frames, 4, 2 * side[0], 2 * side[1]),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "timestep": torch.full((batch,), 500),
        "ofs": torch.full((1,), 2.0) if config.get("ofs_embed_dim") else None,
        "image_rotary_emb": rope,
    }
