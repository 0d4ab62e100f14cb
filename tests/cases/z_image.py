"""A tiny Z-Image: pictures of one batch may differ in size; Omni conditions on pictures; hints of a ControlNet."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM

MASKED = True
VARIANTS = {"omni": {"omni": True}, "controlnet": {"controlnet": True}, "one_refiner": {"n_refiner_layers": 1}}


def build(
    batch: int, side: tuple[int, int], text: int, masked: bool, omni: bool = False, controlnet: bool = False,
    n_refiner_layers: int = 2,
) -> tuple[nn.Module, dict[str, Any]]:  # fmt: skip
    model = diffusers.ZImageTransformer2DModel(
        in_channels=16, dim=HEADS * HEAD_DIM, n_layers=2, n_refiner_layers=n_refiner_layers, n_heads=HEADS,
        n_kv_heads=HEADS, cap_feat_dim=TEXT_DIM, siglip_feat_dim=12 if omni else None, axes_dims=[4, 2, 2],
        axes_lens=[300, 16, 16],
    )  # fmt: skip
    height, width = 2 * side[0], 2 * side[1]
    # Z-Image pads every sample to a multiple of 32 tokens, so prompts and pictures differ by that much.
    lengths = [text + 32 * i if masked else text for i in range(batch)]
    pictures = [torch.randn(16, 1, height, width * (i + 1 if masked else 1)) for i in range(batch)]
    prompts = [torch.randn(length, TEXT_DIM) for length in lengths]
    inputs: dict[str, Any] = {"x": pictures, "t": torch.full((batch,), 0.5), "cap_feats": prompts}
    if omni:
        inputs["x"] = [[torch.randn(16, 1, 4, 6), picture] for picture in pictures]
        inputs["cap_feats"] = [[torch.randn(3, TEXT_DIM), prompt] for prompt in prompts]
        inputs["siglip_feats"] = [[torch.randn(2, 3, 12), None] for _ in prompts]
        inputs["image_noise_mask"] = [[0, 1]] * batch
    if controlnet:
        tokens = -(-side[0] * side[1] // 32) * 32 + -(-text // 32) * 32
        inputs["controlnet_block_samples"] = {0: torch.randn(batch, tokens, HEADS * HEAD_DIM)}
    return model, inputs
