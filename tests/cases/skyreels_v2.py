"""A tiny SkyReels-V2: plain, with a timestep a frame (diffusion forcing), in causal chunks, with image embeddings."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM

VARIANTS = {
    "forcing": {"forcing": True},
    "causal": {"forcing": True, "num_frame_per_block": 2},
    "frame_rate": {"inject_sample_info": True},
    "i2v": {"image": True},
}


def build(
    batch: int, side: tuple[int, int], text: int, masked: bool, forcing: bool = False, image: bool = False,
    **config: Any,
) -> tuple[nn.Module, dict[str, Any]]:  # fmt: skip
    frames = 4 if forcing else 1
    model = diffusers.SkyReelsV2Transformer3DModel(
        num_attention_heads=HEADS, attention_head_dim=HEAD_DIM, in_channels=4, out_channels=4, text_dim=TEXT_DIM,
        freq_dim=16, ffn_dim=50, num_layers=2, rope_max_seq_len=32, image_dim=12 if image else None,
        added_kv_proj_dim=HEADS * HEAD_DIM if image else None, **config,
    )  # fmt: skip
    return model, {
        "hidden_states": torch.randn(batch, 4, frames, 2 * side[0], 2 * side[1]),
        # With an image, the processor takes the last 512 tokens for the text.
        "encoder_hidden_states": torch.randn(batch, 512 if image else text, TEXT_DIM),
        "encoder_hidden_states_image": torch.randn(batch, 5, 12) if image else None,
        "timestep": (torch.arange(4) * 200).expand(batch, 4) if forcing else torch.full((batch,), 500),
        "enable_diffusion_forcing": forcing,
        "fps": [i % 2 for i in range(batch)],
    }
