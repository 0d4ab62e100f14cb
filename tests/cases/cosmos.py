"""A tiny Cosmos: text-to-world, video-to-world with a timestep a frame, 2.5 with pictures, with a ControlNet."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEADS, TEXT_DIM, text_mask

FLOAT32_INSIDE = True  # its learned positions are normalized in float32 only
MASKED = True
VARIANTS = {
    "per_frame": {"per_frame": True, "extra_pos_embed_type": None},
    "pictures": {"pictures": True, "per_frame": True, "use_crossattn_projection": True},
    "controlnet": {"controlnet_block_every_n": 2},
}


def build(
    batch: int, side: tuple[int, int], text: int, masked: bool, per_frame: bool = False, pictures: bool = False,
    **config: Any,
) -> tuple[nn.Module, dict[str, Any]]:  # fmt: skip
    model = diffusers.CosmosTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=HEADS, attention_head_dim=16, num_layers=3, mlp_ratio=2.0,
        text_embed_dim=16 * HEADS if pictures else TEXT_DIM, adaln_lora_dim=10, max_size=(4, 24, 24),
        concat_padding_mask=False, crossattn_proj_in_channels=TEXT_DIM, encoder_hidden_states_channels=16 * HEADS,
        img_context_dim_in=12 if pictures else None, img_context_dim_out=16 * HEADS, **config,
    )  # fmt: skip
    words = torch.randn(batch, text, TEXT_DIM)
    tokens = 2 * side[0] * side[1]
    inputs: dict[str, Any] = {
        "hidden_states": torch.randn(batch, 4, 2, 2 * side[0], 2 * side[1]),
        "timestep": torch.tensor([0.1, 0.7]).expand(batch, 2)[:, None, :, None, None]
        if per_frame
        else torch.full((batch,), 0.5),
        "encoder_hidden_states": (words, torch.randn(batch, 5, 12)) if pictures else words,
        "attention_mask": text_mask(batch, text) if masked and not pictures else None,
        "fps": 16,
    }
    if config.get("controlnet_block_every_n"):
        inputs["block_controlnet_hidden_states"] = [torch.randn(batch, tokens, 16 * HEADS) for _ in range(2)]
    return model, inputs
