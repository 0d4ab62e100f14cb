"""A tiny CogVideoX with rotary positions: T5 as the text encoder, text and video in one sequence, a VAE over time."""

from pathlib import Path
from typing import Any

from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDPMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)

from .parts import randomize, randomize_vae, t5_encoder, t5_tokenizer

# 3 latent frames of 3 x 5 tokens: no layout divides them evenly.
CALL: dict[str, Any] = {
    "prompt": "a photo of a red circle on a blue background",
    "negative_prompt": "a green square",
    "guidance_scale": 6.0,
    "num_inference_steps": 2,
    "height": 48,
    "width": 80,
    "num_frames": 9,
    "max_sequence_length": 21,
}


def build(path: Path) -> Path:
    tokenizer = t5_tokenizer(max_length=226)
    pipe = CogVideoXPipeline(
        tokenizer=tokenizer,
        text_encoder=t5_encoder(tokenizer, seed=2),
        vae=_vae(seed=1),
        transformer=_transformer(seed=3),
        scheduler=CogVideoXDPMScheduler(
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            snr_shift_scale=1.0,
            timestep_spacing="trailing",
        ),
    )
    pipe.save_pretrained(path)
    return path


def _transformer(seed: int) -> CogVideoXTransformer3DModel:
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=8,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=32,
        text_embed_dim=32,
        num_layers=2,
        sample_width=10,
        sample_height=6,
        sample_frames=9,
        max_text_seq_length=CALL["max_sequence_length"],
        use_rotary_positional_embeddings=True,
    )
    return randomize(transformer, seed)


def _vae(seed: int) -> AutoencoderKLCogVideoX:
    vae = AutoencoderKLCogVideoX(
        latent_channels=4,
        block_out_channels=(8, 8, 8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        sample_height=48,
        sample_width=80,
    )
    return randomize_vae(vae, seed)
