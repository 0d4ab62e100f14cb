"""A tiny ERNIE-Image: one stream of image and text, Mistral3 as the text encoder, the VAE of FLUX.2."""

from pathlib import Path

from diffusers import ErnieImagePipeline, ErnieImageTransformer2DModel
from transformers import Mistral3Model

from .flux2 import HIDDEN, mistral3, mistral_tokenizer
from .parts import GUIDED, flow_scheduler, flux2_vae, randomize

# The prompts differ in length, so that one of the two in a batch is padded.
CALL = GUIDED


def build(path: Path) -> Path:
    tokenizer = mistral_tokenizer()
    transformer = ErnieImageTransformer2DModel(
        hidden_size=128,
        num_attention_heads=8,
        num_layers=2,
        ffn_hidden_size=192,
        in_channels=16,
        out_channels=16,
        text_in_dim=HIDDEN,
        rope_axes_dim=(4, 6, 6),
    )
    pipe = ErnieImagePipeline(
        transformer=randomize(transformer, seed=3),
        vae=flux2_vae(seed=1),
        text_encoder=mistral3(Mistral3Model, tokenizer, seed=2, num_hidden_layers=3),
        tokenizer=tokenizer,
        scheduler=flow_scheduler(shift=4.0, use_dynamic_shifting=False),
    )
    pipe.save_pretrained(path)
    return path
