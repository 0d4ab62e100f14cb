"""A tiny HunyuanDiT, with its size conditions (1.1) and without (1.2), deeper, and with a ControlNet's residuals."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM

MASKED = True
VARIANTS = {"1.2": {"use_style_cond_and_image_meta_size": False}, "controlnet": {"controlnet": True}}
VARIANTS |= {"deep": {"num_layers": 8}, "deep_controlnet": {"num_layers": 8, "controlnet": True}}


def build(
    batch: int, side: tuple[int, int], text: int, masked: bool, controlnet: bool = False,
    use_style_cond_and_image_meta_size: bool = True, num_layers: int = 4,
) -> tuple[nn.Module, dict[str, Any]]:  # fmt: skip
    model = diffusers.HunyuanDiT2DModel(
        in_channels=4, num_layers=num_layers, attention_head_dim=HEAD_DIM, num_attention_heads=HEADS, patch_size=2,
        hidden_size=HEADS * HEAD_DIM, cross_attention_dim=TEXT_DIM, cross_attention_dim_t5=16,
        pooled_projection_dim=16, text_len=text, text_len_t5=5, sample_size=16,
        use_style_cond_and_image_meta_size=use_style_cond_and_image_meta_size,
    )  # fmt: skip
    lengths = torch.tensor([text - 1 - 3 * i if masked else text for i in range(batch)])
    tokens = side[0] * side[1]
    inputs = {
        "hidden_states": torch.randn(batch, 4, 2 * side[0], 2 * side[1]),
        "timestep": torch.full((batch,), 500.0),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "text_embedding_mask": torch.arange(text)[None] < lengths[:, None],
        "encoder_hidden_states_t5": torch.randn(batch, 5, 16),
        "text_embedding_mask_t5": torch.ones(batch, 5, dtype=torch.bool),
        "image_meta_size": torch.tensor([[64.0, 96.0, 64.0, 96.0, 0.0, 0.0]] * batch),
        "style": torch.zeros(batch, dtype=torch.long),
        "image_rotary_emb": (torch.randn(tokens, HEAD_DIM), torch.randn(tokens, HEAD_DIM)),
    }
    samples = [torch.randn(batch, tokens, HEADS * HEAD_DIM) for _ in range(num_layers // 2 - 1)]
    return model, inputs | ({"controlnet_block_samples": samples} if controlnet else {})
