"""A tiny Chroma: FLUX.1's blocks, modulated by one network for all of them, T5 alone as the text encoder."""

import warnings
from pathlib import Path
from typing import Any

from diffusers import ChromaPipeline, ChromaTransformer2DModel

from .parts import GUIDED, autoencoder_kl, flow_scheduler, randomize, t5_encoder, t5_tokenizer

# The prompts are padded, and masks leave the padding out.
CALL: dict[str, Any] = {**GUIDED, "max_sequence_length": 21}


def build(path: Path) -> Path:
    tokenizer = t5_tokenizer(max_length=512)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # diffusers of its own import
        transformer = ChromaTransformer2DModel(
            in_channels=16,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=8,
            joint_attention_dim=32,
            axes_dims_rope=(4, 6, 6),
            approximator_num_channels=16,
            approximator_hidden_dim=32,
            approximator_layers=2,
        )
    pipe = ChromaPipeline(
        scheduler=flow_scheduler(use_dynamic_shifting=False),
        vae=autoencoder_kl(seed=1),
        text_encoder=t5_encoder(tokenizer, seed=2),
        tokenizer=tokenizer,
        transformer=randomize(transformer, seed=3),
    )
    pipe.save_pretrained(path)
    return path
