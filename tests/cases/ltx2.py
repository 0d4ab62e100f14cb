"""A tiny LTX-2: text-to-video with audio, image-to-video, and LTX-2.3 with gates, prompt modulation and guidance."""

from typing import Any

import diffusers
import torch
from torch import nn

from tests.cases.common import HEADS, TEXT_DIM, text_mask

LTX_2_3 = {
    "gated_attn": True, "audio_gated_attn": True, "cross_attn_mod": True, "audio_cross_attn_mod": True,
    "perturbed_attn": True, "use_keyframes_abs_pos_embedding": True, "rope_type": "split",
}  # fmt: skip
MASKED = True
VARIANTS = {
    "i2v": {"per_token": True},
    "gated": {"gated_attn": True, "audio_gated_attn": True},
    "split_rope": {"rope_type": "split"},
    "ltx_2_3": {**LTX_2_3, "guidance": {"use_cross_timestep": True}},
    "perturbed": {**LTX_2_3, "guidance": {"spatio_temporal_guidance_blocks": [1]}, "per_token": True},
    "isolated": {"guidance": {"isolate_modalities": True}},
}


def build(
    batch: int, side: tuple[int, int], text: int, masked: bool, per_token: bool = False,
    guidance: dict[str, Any] | None = None, **config: Any,
) -> tuple[nn.Module, dict[str, Any]]:  # fmt: skip
    model = diffusers.LTX2VideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=HEADS, attention_head_dim=12, cross_attention_dim=96,
        audio_in_channels=3, audio_out_channels=3, audio_num_attention_heads=HEADS, audio_attention_head_dim=6,
        audio_cross_attention_dim=48, num_layers=2, caption_channels=TEXT_DIM, **config,
    )  # fmt: skip
    tokens, audio = side[0] * side[1], 2 * side[0] + 1
    timestep = torch.full((batch,), 500.0)
    inputs: dict[str, Any] = {
        "hidden_states": torch.randn(batch, tokens, 4),
        "audio_hidden_states": torch.randn(batch, audio, 3),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "audio_encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "timestep": torch.arange(batch * tokens).view(batch, tokens) % 3 * 250.0 if per_token else timestep,
        "audio_timestep": timestep,
        "sigma": timestep,
        "num_frames": 1, "height": side[0], "width": side[1], "audio_num_frames": audio,
    }  # fmt: skip
    if masked:
        inputs["encoder_attention_mask"] = inputs["audio_encoder_attention_mask"] = text_mask(batch, text).long()
    if config.get("use_keyframes_abs_pos_embedding"):
        inputs["video_keyframes_mask"] = (torch.arange(tokens) % 3 == 0).float()[None, :, None].expand(batch, -1, -1)
    if guidance and "spatio_temporal_guidance_blocks" in guidance:
        inputs["perturbation_mask"] = torch.arange(batch) % 2.0
    return model, inputs | (guidance or {})
