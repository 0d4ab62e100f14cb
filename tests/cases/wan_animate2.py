"""A tiny Wan Animate 2: the pass over a reference video, and a step that attends to what that cached."""

from typing import Any

import diffusers
import torch
from diffusers.models.transformers.transformer_wan_animate_2 import WanAnimate2KVCache
from torch import nn
from torch.nn.attention.flex_attention import create_block_mask

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM

VARIANTS = {"cached": {"cached": True}, "no_picture": {"use_img_emb": False}}


def build(
    batch: int, side: tuple[int, int], text: int, masked: bool, cached: bool = False, use_img_emb: bool = True
) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.WanAnimate2Transformer3DModel(
        in_dim=8, out_dim=4, dim=HEADS * HEAD_DIM, num_heads=HEADS, num_layers=2, ffn_dim=50, freq_dim=16,
        text_dim=TEXT_DIM, text_len=16, use_img_emb=use_img_emb,
    )  # fmt: skip
    height, width = 2 * side[0], 2 * side[1]
    grid = torch.tensor([[2, *side]] * batch)
    reference = {
        "hidden_states": [torch.randn(4, 2, height, width) for _ in range(batch)],
        "condition_latents": [torch.randn(4, 2, height, width) for _ in range(batch)],
        "encoder_hidden_states": [torch.randn(text, TEXT_DIM) for _ in range(batch)],
        "encoder_hidden_states_image": torch.randn(batch, 5, 1280) if use_img_emb else None,
        "timestep": torch.full((batch,), 500),
        "seq_len": 2 * side[0] * side[1],
        "kv_cache": WanAnimate2KVCache(2),
        "kv_cache_mode": "extract",
        "offset_grid_sizes": grid,
    }
    if not cached:
        return model, reference
    tokens = side[0] * side[1]
    model.block_masks[2, tokens] = in_context_mask(2, tokens)  # the model would compile its own
    return model, reference | {
        "earlier": [reference],
        "kv_cache_mode": "cached",
        "hidden_states": [torch.randn(4, 3, height, width) for _ in range(batch)],
        "condition_latents": [torch.randn(4, 3, height, width) for _ in range(batch)],
        "seq_len": 3 * tokens,
        "reference_grid_sizes": grid,
        "origin_len": 5,
        "origin_area": [16 * side[0], 16 * side[1]],
    }


def in_context_mask(frames: int, tokens: int) -> Any:
    """Every frame attends to all frames, and to the frame of the reference that is its own."""
    queries, references = (-(-length * tokens // 128) * 128 for length in (frames + 1, frames))

    def attends(batch: Any, head: Any, query: Any, key: Any) -> Any:
        reference = key - queries
        seen = (reference >= 0) & (reference < frames * tokens) & (reference // tokens + 1 == query // tokens)
        return (query < (frames + 1) * tokens) & ((key < (frames + 1) * tokens) | seen)

    return create_block_mask(attends, None, None, queries, queries + references, device="cpu")
