"""A tiny LTX-Video: T5 with a padding mask as the text encoder, a VAE that compresses 32 x 32 x 8."""

from pathlib import Path
from typing import Any

from diffusers import (
    AutoencoderKLLTXVideo,
    FlowMatchEulerDiscreteScheduler,
    LTXPipeline,
    LTXVideoTransformer3DModel,
)

from .parts import randomize, randomize_vae, t5_encoder, t5_tokenizer

# 2 latent frames of 3 x 5 tokens: no layout divides them evenly.
CALL: dict[str, Any] = {
    "prompt": "a photo of a red circle on a blue background",
    "negative_prompt": "a green square",
    "guidance_scale": 3.0,
    "num_inference_steps": 2,
    "height": 96,
    "width": 160,
    "num_frames": 9,
    "max_sequence_length": 21,
}


def build(path: Path) -> Path:
    tokenizer = t5_tokenizer(max_length=128)
    pipe = LTXPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024,
            max_image_seq_len=4096, shift_terminal=0.1,
        ),
        vae=_vae(seed=1),
        text_encoder=t5_encoder(tokenizer, seed=2),
        tokenizer=tokenizer,
        transformer=_transformer(seed=3),
    )  # fmt: skip
    pipe.save_pretrained(path)
    return path


def _transformer(seed: int) -> LTXVideoTransformer3DModel:
    transformer = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=8,
        attention_head_dim=12,
        cross_attention_dim=96,
        num_layers=2,
        caption_channels=32,
    )
    return randomize(transformer, seed)


def _vae(seed: int) -> AutoencoderKLLTXVideo:
    vae = AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 16, 16),
        decoder_block_out_channels=(8, 8, 16, 16),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
    )
    return randomize_vae(vae, seed)
