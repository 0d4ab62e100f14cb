"""A tiny CogView4: image and text in one attention, GLM as the text encoder."""

from pathlib import Path

from diffusers import CogView4Pipeline, CogView4Transformer2DModel
from transformers import GlmConfig, GlmModel

from .parts import GUIDED, autoencoder_kl, flow_scheduler, randomize
from .qwen import HIDDEN, decoder_sizes, qwen_tokenizer

CALL = GUIDED


def build(path: Path) -> Path:
    tokenizer = qwen_tokenizer()
    transformer = CogView4Transformer2DModel(
        in_channels=16,
        out_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=8,
        text_embed_dim=HIDDEN,
        time_embed_dim=32,
        condition_dim=16,
        rope_axes_dim=(16, 16),
    )
    pipe = CogView4Pipeline(
        tokenizer=tokenizer,
        text_encoder=randomize(GlmModel(GlmConfig(**decoder_sizes(tokenizer), head_dim=8)), seed=2),
        vae=autoencoder_kl(seed=1, latent_channels=16),
        transformer=randomize(transformer, seed=3),
        scheduler=flow_scheduler(base_shift=0.25, max_shift=0.75, time_shift_type="linear"),
    )
    pipe.save_pretrained(path)
    return path
