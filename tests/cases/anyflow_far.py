"""A tiny AnyFlow-FAR: all chunks at once, and the second chunk after the first was cached."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM

FLOAT32_INSIDE = True  # its norms average in float32, whatever the dtype
VARIANTS = {"cached": {"cached": True}, "i2v": {"image": True}, "context": {"full_chunk_limit": 1}}


def build(
    batch: int, side: tuple[int, int], text: int, masked: bool, cached: bool = False, image: bool = False,
    full_chunk_limit: int = 3,
) -> tuple[nn.Module, dict[str, Any]]:  # fmt: skip
    model = diffusers.AnyFlowFARTransformer3DModel(
        num_attention_heads=HEADS, attention_head_dim=HEAD_DIM, in_channels=4, out_channels=4, text_dim=TEXT_DIM,
        freq_dim=16, ffn_dim=50, num_layers=2, rope_max_seq_len=32, image_dim=12 if image else None,
        full_chunk_limit=full_chunk_limit,
    )  # fmt: skip
    timestep = torch.tensor([[100.0, 600.0, 300.0]]).expand(batch, 3)
    # Frames of a context are embedded at half of the resolution.
    shape = (4, 4 * side[0], 4 * side[1])
    inputs = {
        "hidden_states": torch.randn(batch, 3, *shape),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "encoder_hidden_states_image": torch.randn(batch, 5, 12) if image else None,
        "timestep": timestep,
        "r_timestep": timestep / 2,
        "chunk_partition": [1, 2],
    }
    if cached:
        tokens = 4 * side[0] * side[1]
        cache = [
            {
                "full_cache": torch.zeros(2, batch, HEADS, 3 * tokens, HEAD_DIM),
                "compressed_cache": torch.zeros(2, batch, HEADS, tokens, HEAD_DIM),
            }
            for _ in range(2)
        ]
        first = inputs | {
            "hidden_states": torch.randn(batch, 1, *shape),
            "timestep": timestep[:, :1],
            "r_timestep": timestep[:, :1] / 2,
            "chunk_partition": [1],
            "kv_cache": cache,
            "kv_cache_flag": {"num_cached_chunks": 0, "is_cache_step": True},
        }
        inputs |= {
            "hidden_states": inputs["hidden_states"][:, 1:],
            "timestep": timestep[:, 1:],
            "r_timestep": timestep[:, 1:] / 2,
            "kv_cache": cache,
            "kv_cache_flag": {"num_cached_chunks": 1, "is_cache_step": False},
            "earlier": [first],
        }
    return model, inputs
