"""A tiny Ovis-Image: blocks like FLUX.1's with gated feed-forwards, Qwen3 as the text encoder."""

from pathlib import Path
from typing import Any

from diffusers import OvisImagePipeline, OvisImageTransformer2DModel
from transformers import Qwen3Model

from .parts import GUIDED, autoencoder_kl, flow_scheduler, randomize
from .qwen import HIDDEN, qwen3, qwen_tokenizer

CALL: dict[str, Any] = {**GUIDED, "max_sequence_length": 37}


def build(path: Path) -> Path:
    tokenizer = qwen_tokenizer()
    transformer = OvisImageTransformer2DModel(
        in_channels=16,
        out_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=8,
        joint_attention_dim=HIDDEN,
        axes_dims_rope=(4, 6, 6),
    )
    pipe = OvisImagePipeline(
        scheduler=flow_scheduler(),
        vae=autoencoder_kl(seed=1),
        text_encoder=qwen3(Qwen3Model, tokenizer, seed=2),
        tokenizer=tokenizer,
        transformer=randomize(transformer, seed=3),
    )
    pipe.save_pretrained(path)
    return path
