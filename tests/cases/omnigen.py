"""A tiny OmniGen, whose mask is causal over the prompt, and which may look at pictures in it."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS

MASKED = True
VARIANTS = {"picture": {"picture": True}}


def build(
    batch: int, side: tuple[int, int], text: int, masked: bool, picture: bool = False
) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.OmniGenTransformer2DModel(
        in_channels=4, hidden_size=HEADS * HEAD_DIM, num_attention_heads=HEADS, num_key_value_heads=HEADS,
        intermediate_size=50, num_layers=2, pad_token_id=0, vocab_size=40, time_step_dim=16, pos_embed_max_size=12,
        rope_scaling={"short_factor": [1.0] * (HEAD_DIM // 2), "long_factor": [1.1] * (HEAD_DIM // 2)},
    )  # fmt: skip
    tokens = text + 1 + side[0] * side[1]
    mask = torch.ones(tokens, tokens)
    mask[: text + 1] = torch.tril(mask)[: text + 1]
    mask = mask.repeat(batch, 1, 1)
    for i in range(batch if masked else 0):  # shorter prompts are padded on the left
        mask[i, :, : 1 + 3 * i] = 0
        mask[i, : 1 + 3 * i] = 1
    return model, {
        "hidden_states": torch.randn(batch, 4, 2 * side[0], 2 * side[1]),
        "timestep": torch.full((batch,), 0.5),
        "input_ids": torch.arange(batch * text).view(batch, text) % 39 + 1,
        "input_img_latents": [torch.randn(1, 4, 4, 4)] * batch if picture else [],
        "input_image_sizes": {i: [[1, 5]] for i in range(batch)} if picture else {},
        "attention_mask": mask,
        "position_ids": torch.arange(tokens)[None].repeat(batch, 1),
    }
