"""A tiny Lumina-Image 2.0: one stream with fewer key and value heads, Gemma 2 as the text encoder."""

from pathlib import Path
from typing import Any

from diffusers import Lumina2Pipeline, Lumina2Transformer2DModel
from transformers import Gemma2Config, Gemma2Model

from .parts import GUIDED, autoencoder_kl, flow_scheduler, randomize
from .qwen import HIDDEN, decoder_sizes, qwen_tokenizer

# The prompts are padded, and masks leave the padding out.
CALL: dict[str, Any] = {**GUIDED, "max_sequence_length": 128}


def build(path: Path) -> Path:
    tokenizer = qwen_tokenizer()
    transformer = Lumina2Transformer2DModel(
        sample_size=16,
        in_channels=16,
        hidden_size=128,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=8,
        num_kv_heads=4,
        multiple_of=32,
        axes_dim_rope=(4, 6, 6),
        axes_lens=(160, 32, 32),
        cap_feat_dim=HIDDEN,
    )
    pipe = Lumina2Pipeline(
        transformer=randomize(transformer, seed=3),
        scheduler=flow_scheduler(shift=6.0, use_dynamic_shifting=False),
        vae=autoencoder_kl(seed=1, latent_channels=16),
        text_encoder=randomize(Gemma2Model(Gemma2Config(**decoder_sizes(tokenizer), head_dim=8)), seed=2),
        tokenizer=tokenizer,
    )
    pipe.save_pretrained(path)
    return path
