"""A tiny Wan Animate: two frames, a pose and a face for the second."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM


def build(batch: int, side: tuple[int, int], text: int, masked: bool) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.WanAnimateTransformer3DModel(
        num_attention_heads=HEADS, attention_head_dim=HEAD_DIM, in_channels=12, latent_channels=4, out_channels=4,
        text_dim=TEXT_DIM, freq_dim=16, ffn_dim=50, num_layers=4, rope_max_seq_len=32, image_dim=12,
        added_kv_proj_dim=HEADS * HEAD_DIM, motion_encoder_channel_sizes={"4": 6, "8": 6}, motion_encoder_size=8,
        motion_style_dim=10, motion_dim=5, motion_encoder_dim=10, face_encoder_hidden_dim=12, face_encoder_num_heads=2,
        inject_face_latents_blocks=2,
    )  # fmt: skip
    return model, {
        "hidden_states": torch.randn(batch, 12, 2, 2 * side[0], 2 * side[1]),
        "encoder_hidden_states": torch.randn(batch, 512, TEXT_DIM),
        "encoder_hidden_states_image": torch.randn(batch, 5, 12),
        "pose_hidden_states": torch.randn(batch, 4, 1, 2 * side[0], 2 * side[1]),
        "face_pixel_values": torch.randn(batch, 3, 4, 8, 8),
        "timestep": torch.full((batch,), 500),
    }
