"""A tiny ConsisID, which attends to a face, and without one."""

from typing import Any

import diffusers
import torch
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from torch import nn

from tests.cases.common import HEADS, TEXT_DIM

VARIANTS = {"no_face": {"is_train_face": False}, "sinusoidal": {"use_rotary_positional_embeddings": False}}


def build(
    batch: int, side: tuple[int, int], text: int, masked: bool, is_train_face: bool = True,
    use_rotary_positional_embeddings: bool = True,
) -> tuple[nn.Module, dict[str, Any]]:  # fmt: skip
    # Twelve heads, since a face is two thirds as wide as the video.
    model = diffusers.ConsisIDTransformer3DModel(
        num_attention_heads=12, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=20,
        text_embed_dim=TEXT_DIM, num_layers=4, sample_width=2 * side[1], sample_height=2 * side[0], sample_frames=1,
        max_text_seq_length=text, use_rotary_positional_embeddings=use_rotary_positional_embeddings,
        is_train_face=is_train_face, cross_attn_interval=2, cross_attn_dim_head=6, cross_attn_num_heads=HEADS,
        LFE_id_dim=10, LFE_vit_dim=12, LFE_depth=2, LFE_dim_head=4, LFE_num_heads=2, LFE_num_id_token=2,
        LFE_num_querie=5, LFE_output_dim=128, LFE_ff_mult=2, LFE_num_scale=2,
    )  # fmt: skip
    inputs = {
        "hidden_states": torch.randn(batch, 1, 4, 2 * side[0], 2 * side[1]),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "timestep": torch.full((batch,), 500),
    }
    if use_rotary_positional_embeddings:
        inputs["image_rotary_emb"] = get_3d_rotary_pos_embed(16, ((0, 0), side), side, 1)
    if is_train_face:
        inputs["id_cond"] = torch.randn(batch, 10)
        inputs["id_vit_hidden"] = [torch.randn(batch, 7, 12) for _ in range(2)]
    return model, inputs
