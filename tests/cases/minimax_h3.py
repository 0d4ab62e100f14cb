"""A tiny MiniMax H3: text, video and audio tokens shuffled together, with a clean picture at timestep zero."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEADS, TEXT_DIM


def build(batch: int, side: tuple[int, int], text: int, masked: bool) -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.MiniMaxH3Transformer3DModel(
        num_attention_heads=HEADS, attention_head_dim=8, hidden_size=40, num_layers=2, num_refiner_layers=1,
        ffn_dim=50, in_channels=2, audio_in_channels=3, text_dim=TEXT_DIM, freq_dim=16, time_embed_hidden_dim=20,
        time_embed_dim=12, rope_freq_dim=1,
    )  # fmt: skip
    video, audio = side[0] * side[1], side[0] + 1
    places = torch.randperm(text + video + audio)
    tags = torch.zeros(len(places), dtype=torch.long)
    tags[places[text:]] = 1
    tags[places[text + video :]] = 2
    return model, {
        "hidden_states": torch.randn(batch, video, 8),
        "audio_hidden_states": torch.randn(batch, audio, 3),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "timestep": torch.tensor([0.0, 500.0]),
        "timestep_indices": torch.arange(len(places)) % 2,
        "token_tags": tags,
        "position_ids": torch.randint(0, 9, (len(places), 3)),
        "text_indices": places[:text],
        "video_indices": places[text : text + video],
        "audio_indices": places[text + video :],
    }
