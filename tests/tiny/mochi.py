"""A tiny Mochi: T5 with a padding mask as the text encoder, a VAE that compresses 8 x 8 x 6."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLMochi,
    FlowMatchEulerDiscreteScheduler,
    MochiPipeline,
    MochiTransformer3DModel,
)

from .parts import randomize, t5_encoder, t5_tokenizer

# 2 latent frames of 3 x 5 tokens: no layout divides them evenly.
CALL: dict[str, Any] = {
    "prompt": "a photo of a red circle on a blue background",
    "negative_prompt": "a green square",
    "guidance_scale": 4.5,
    "num_inference_steps": 2,
    "height": 48,
    "width": 80,
    "num_frames": 7,
    "max_sequence_length": 21,
}


def build(path: Path) -> Path:
    tokenizer = t5_tokenizer(max_length=256)
    pipe = MochiPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        vae=_vae(seed=1),
        text_encoder=t5_encoder(tokenizer, seed=2),
        tokenizer=tokenizer,
        transformer=_transformer(seed=3),
    )
    pipe.save_pretrained(path)
    return path


def _transformer(seed: int) -> MochiTransformer3DModel:
    transformer = MochiTransformer3DModel(
        num_attention_heads=8,
        attention_head_dim=12,
        num_layers=3,
        pooled_projection_dim=24,
        in_channels=12,
        text_embed_dim=32,
        time_embed_dim=32,
    )
    return randomize(transformer, seed)


def _vae(seed: int) -> AutoencoderKLMochi:
    """Its norms make 32 groups whatever its configuration. It ends in a linear, where others end in a convolution."""
    vae = AutoencoderKLMochi(
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1),
    )
    randomize(vae, seed)
    with torch.no_grad():
        vae.decoder.proj_out.weight.mul_(0.15)
    return vae
