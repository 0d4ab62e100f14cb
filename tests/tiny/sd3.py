"""A tiny Stable Diffusion 3: double-stream blocks, two CLIPs and T5 as text encoders."""

from pathlib import Path
from typing import Any

from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import CLIPTextModelWithProjection

from .parts import (
    GUIDED,
    autoencoder_kl,
    clip_text_model,
    clip_tokenizer,
    flow_scheduler,
    randomize,
    t5_encoder,
    t5_tokenizer,
)

CALL: dict[str, Any] = {**GUIDED, "max_sequence_length": 21}


def build(path: Path) -> Path:
    tokenizer, tokenizer_3 = clip_tokenizer(), t5_tokenizer(max_length=512)
    transformer = SD3Transformer2DModel(
        sample_size=16,
        in_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=8,
        joint_attention_dim=64,  # of T5, as wide as both CLIPs side by side
        caption_projection_dim=128,
        pooled_projection_dim=64,
        out_channels=16,
        pos_embed_max_size=24,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    pipe = StableDiffusion3Pipeline(
        transformer=randomize(transformer, seed=6),
        scheduler=flow_scheduler(use_dynamic_shifting=False),
        vae=autoencoder_kl(seed=1, latent_channels=16),
        text_encoder=clip_text_model(tokenizer, seed=2, kind=CLIPTextModelWithProjection),
        tokenizer=tokenizer,
        text_encoder_2=clip_text_model(tokenizer, seed=3, kind=CLIPTextModelWithProjection),
        tokenizer_2=tokenizer,
        text_encoder_3=t5_encoder(tokenizer_3, seed=4, d_model=64),
        tokenizer_3=tokenizer_3,
    )
    pipe.save_pretrained(path)
    return path
