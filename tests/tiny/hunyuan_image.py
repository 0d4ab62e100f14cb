"""A tiny HunyuanImage-2.1: double- then single-stream blocks, Qwen2.5-VL and, for glyphs, ByT5 as text encoders."""

from pathlib import Path
from typing import Any

from diffusers import (
    AdaptiveProjectedMixGuidance,
    AutoencoderKLHunyuanImage,
    HunyuanImagePipeline,
    HunyuanImageTransformer2DModel,
)
from transformers import ByT5Tokenizer

from .parts import flow_scheduler, randomize, randomize_vae, t5_encoder
from .qwen import HIDDEN, qwen2_5_vl, qwen_tokenizer

# What stands in quotation marks goes through the second text encoder; 3 x 5 tokens.
CALL: dict[str, Any] = {
    "prompt": 'a photo of a red circle with the text "red" on a blue background',
    "negative_prompt": "a green square",
    "num_inference_steps": 2,
    "height": 48,
    "width": 80,
}


def build(path: Path) -> Path:
    tokenizer, tokenizer_2 = qwen_tokenizer(), ByT5Tokenizer()
    transformer = HunyuanImageTransformer2DModel(
        in_channels=16,
        out_channels=16,
        num_attention_heads=8,
        attention_head_dim=8,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=1,
        text_embed_dim=HIDDEN,
        text_embed_2_dim=32,
        rope_axes_dim=(4, 4),
    )
    pipe = HunyuanImagePipeline(
        scheduler=flow_scheduler(shift=5.0, use_dynamic_shifting=False),
        vae=_vae(seed=1),
        text_encoder=qwen2_5_vl(tokenizer, seed=2, num_hidden_layers=3),
        tokenizer=tokenizer,
        text_encoder_2=t5_encoder(tokenizer_2, seed=3),
        tokenizer_2=tokenizer_2,
        transformer=randomize(transformer, seed=4),
        guider=AdaptiveProjectedMixGuidance(guidance_scale=2.0, start=0.0),
        ocr_guider=AdaptiveProjectedMixGuidance(guidance_scale=2.0, start=0.0),
    )
    pipe.save_pretrained(path)
    return path


def _vae(seed: int) -> AutoencoderKLHunyuanImage:
    vae = AutoencoderKLHunyuanImage(
        in_channels=3,
        out_channels=3,
        latent_channels=16,
        block_out_channels=(32, 32, 32, 32, 32),
        layers_per_block=1,
        spatial_compression_ratio=16,
        sample_size=64,
        scaling_factor=0.75289,
    )
    return randomize_vae(vae, seed)
