"""A tiny Wan: T2V, I2V with image embeddings, TI2V with a timestep a token."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM

VARIANTS = {"ti2v": {"per_token": True}, "i2v": {"image": True}}


def build(
    batch: int, side: tuple[int, int], text: int, masked: bool, per_token: bool = False, image: bool = False
) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.WanTransformer3DModel(
        num_attention_heads=HEADS, attention_head_dim=HEAD_DIM, in_channels=4, out_channels=4, text_dim=TEXT_DIM,
        freq_dim=16, ffn_dim=50, num_layers=2, rope_max_seq_len=32, image_dim=12 if image else None,
        added_kv_proj_dim=HEADS * HEAD_DIM if image else None,
    )  # fmt: skip
    tokens = side[0] * side[1]
    per_token_timestep = torch.arange(batch * tokens).view(batch, tokens) % 3 * 400
    inputs = {
        "hidden_states": torch.randn(batch, 4, 1, 2 * side[0], 2 * side[1]),
        # With an image, the processor takes the last 512 tokens for the text.
        "encoder_hidden_states": torch.randn(batch, 512 if image else text, TEXT_DIM),
        "timestep": per_token_timestep if per_token else torch.full((batch,), 500),
    }
    return model, inputs | ({"encoder_hidden_states_image": torch.randn(batch, 5, 12)} if image else {})
