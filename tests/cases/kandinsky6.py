"""A tiny Kandinsky 6: video with audio of another width, as the released ones are set, and video alone."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM

MASKED = True
VARIANTS = {
    "video": {"audio": False},
    "released": {"ca_rope": True, "cross_gates": True, "fix_modulation": True},
}


def build(
    batch: int, side: tuple[int, int], text: int, masked: bool, audio: bool = True, **config: Any
) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.Kandinsky6Transformer3DModel(
        in_visual_dim=4, out_visual_dim=4, in_text_dim=TEXT_DIM, in_text_dim2=16, time_dim=16,
        model_dim=HEADS * HEAD_DIM, ff_dim=50, num_text_blocks=1, num_visual_blocks=2, axes_dims=(4, 2, 2),
        visual_cond=False, in_audio_dim=5, out_audio_dim=5, model_dim_a=96 if not config.get("ca_rope") else None,
        axes_dims_a=(4, 4, 4) if not config.get("ca_rope") else None, **config,
    )  # fmt: skip
    mask = None
    if masked:  # prompts of different length: each sample pads another number of tokens
        mask = torch.arange(text)[None] < torch.tensor([text - 1 - 3 * i for i in range(batch)])[:, None]
    return model, {
        "hidden_states": torch.randn(batch, 1, 2 * side[0], 2 * side[1], 4),
        "audio_hidden_states": torch.randn(batch, 7, 5) if audio else None,
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "encoder_attention_mask": mask,
        "pooled_projections": torch.randn(batch, 16),
        "timestep": torch.full((batch,), 500.0),
    }
