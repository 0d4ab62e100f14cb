"""Tiny LTX-2 pipelines, text and image to video: video and audio at once, Gemma 3 as the text encoder, connectors."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    FlowMatchEulerDiscreteScheduler,
    LTX2ImageToVideoPipeline,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
)
from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2Vocoder
from PIL import Image
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, GemmaTokenizer

from .parts import gemma_tokenizer, randomize, randomize_vae

# 2 latent frames of 3 x 5 tokens and 9 of sound: no layout divides them evenly. Two guidance branches in one batch, and
# a third that hears and sees apart.
CALL: dict[str, Any] = {
    "prompt": "a photo of a red circle on a blue background",
    "negative_prompt": "a green square",
    "guidance_scale": 4.0,
    "stg_scale": 0.0,
    "audio_stg_scale": 0.0,
    "modality_scale": 2.0,
    "num_inference_steps": 2,
    "height": 96,
    "width": 160,
    "num_frames": 9,
    "max_sequence_length": 24,
}
# Without `image_crf` the image would go through a video codec, which needs PyAV.
CALL_IMAGE: dict[str, Any] = {
    **CALL,
    "image": Image.linear_gradient("L").convert("RGB").resize((160, 96)),
    "image_crf": 0,
}
HIDDEN, LAYERS = 32, 2
LATENT, SOUND_LATENT, MELS = 8, 2, 16


def build_t2v(path: Path) -> Path:
    LTX2Pipeline(**_parts()).save_pretrained(path)
    return path


def build_i2v(path: Path) -> Path:
    LTX2ImageToVideoPipeline(**_parts()).save_pretrained(path)
    return path


def _parts() -> dict[str, Any]:
    tokenizer = gemma_tokenizer(max_length=1024)
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024,
            max_image_seq_len=4096, shift_terminal=0.1,
        ),
        "vae": _vae(seed=1),
        "audio_vae": _audio_vae(seed=2),
        "text_encoder": _text_encoder(tokenizer, seed=3),
        "tokenizer": tokenizer,
        "connectors": _connectors(seed=4),
        "transformer": _transformer(seed=5),
        "vocoder": _vocoder(seed=6),
    }  # fmt: skip


def _transformer(seed: int) -> LTX2VideoTransformer3DModel:
    transformer = LTX2VideoTransformer3DModel(
        in_channels=LATENT, out_channels=LATENT, num_attention_heads=8, attention_head_dim=12, cross_attention_dim=96,
        audio_in_channels=SOUND_LATENT * MELS // 4, audio_out_channels=SOUND_LATENT * MELS // 4,
        audio_num_attention_heads=8, audio_attention_head_dim=6, audio_cross_attention_dim=48, num_layers=2,
        caption_channels=HIDDEN,
    )  # fmt: skip
    return randomize(transformer, seed)


def _vae(seed: int) -> AutoencoderKLLTX2Video:
    """Compresses 32 x 32 x 8, as the pipeline demands of heights and widths."""
    vae = AutoencoderKLLTX2Video(
        latent_channels=LATENT,
        block_out_channels=(8, 8, 16),
        decoder_block_out_channels=(8, 16, 32),
        layers_per_block=(1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1),
        down_block_types=("LTX2VideoDownBlock3D",) * 3,
        spatio_temporal_scaling=(True, True, True),
        decoder_inject_noise=(False,) * 4,
        downsample_type=("spatiotemporal",) * 3,
    )
    _spread(vae, seed)
    return randomize_vae(vae, seed)


def _audio_vae(seed: int) -> AutoencoderKLLTX2Audio:
    # As many base channels as a latent has channels and mel bins: its statistics are kept so.
    vae = AutoencoderKLLTX2Audio(
        base_channels=SOUND_LATENT * MELS // 4,
        latent_channels=SOUND_LATENT,
        mel_bins=MELS,
        num_res_blocks=1,
        resolution=MELS,
    )
    _spread(vae, seed)
    return randomize_vae(vae, seed)


def _spread(vae: AutoencoderKLLTX2Video | AutoencoderKLLTX2Audio, seed: int) -> None:
    """Statistics of the latents that are not those of no normalization at all."""
    generator = torch.Generator().manual_seed(seed + 100)
    vae.latents_mean.normal_(0, 0.1, generator=generator)
    vae.latents_std.uniform_(0.8, 1.2, generator=generator)


def _text_encoder(tokenizer: GemmaTokenizer, seed: int) -> Gemma3ForConditionalGeneration:
    config = Gemma3Config(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": HIDDEN,
            "intermediate_size": 64,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 8,
            "layer_types": ["sliding_attention", "full_attention"],
            "sliding_window": 16,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        mm_tokens_per_image=1,
        image_token_index=tokenizer.mask_token_id,
    )
    return randomize(Gemma3ForConditionalGeneration(config), seed)


def _connectors(seed: int) -> LTX2TextConnectors:
    sizes = {
        f"{stream}_connector_{name}": size
        for stream in ("video", "audio")
        for name, size in {
            "num_attention_heads": 4,
            "attention_head_dim": HIDDEN // 4,
            "num_layers": 1,
            "num_learnable_registers": 8,
        }.items()
    }
    return randomize(LTX2TextConnectors(caption_channels=HIDDEN, text_proj_in_factor=LAYERS + 1, **sizes), seed)


def _vocoder(seed: int) -> LTX2Vocoder:
    return randomize(LTX2Vocoder(in_channels=2 * MELS, hidden_channels=32), seed)
