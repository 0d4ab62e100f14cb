"""A tiny Qwen-Image 2.1: text alone, text around a given image, and the steps after the first, which cache both."""

from typing import Any

import diffusers
import torch
from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21KVCache
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM, text_mask

MASKED = True
VARIANTS = {
    "edit": {"given": True},
    "cached": {"given": True, "cached": True},
    "one_timestep": {"causal_condition": False},
}


def build(
    batch: int, side: tuple[int, int], text: int, masked: bool, given: bool = False, cached: bool = False, **config: Any
) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.QwenImage21Transformer2DModel(
        in_channels=4, out_channels=4, num_layers=2, attention_head_dim=HEAD_DIM, num_attention_heads=HEADS,
        context_in_dim=TEXT_DIM, axes_dims_rope=(4, 2, 2), **config,
    )  # fmt: skip
    shapes = [(1, 4, 2)] * given + [(1, 2 * side[0], 2 * side[1])]
    # The language model has a slot for four tokens of a picture: here after the first token of the prompt.
    slots = [False, *([True] * 2 * given), *([False] * (text - 1))]
    mask = text_mask(batch, len(slots)) if masked else None
    inputs = {
        "hidden_states": torch.randn(batch, sum(height * width for _, height, width in shapes), 4),
        "encoder_hidden_states": torch.randn(batch, len(slots), TEXT_DIM),
        "encoder_hidden_states_mask": mask,
        "timestep": torch.full((batch,), 0.5),
        "img_shapes": [shapes] * batch,
        "img_mask": torch.tensor([slots + [True] * (side[0] * side[1])] * batch),
    }
    if cached:
        cache = {"kv_cache": QwenImage21KVCache(2)}
        first = (
            inputs | cache | {"kv_cache_mode": "extract", "hidden_states": torch.randn_like(inputs["hidden_states"])}
        )
        inputs |= cache | {"kv_cache_mode": "cached", "earlier": [first]}
    return model, inputs
