"""Tiny Wan pipelines: 2.1 text and image to video, 2.2 with two transformers, 2.2 TI2V with a timestep per token."""

from pathlib import Path
from typing import Any

from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from .parts import randomize, randomize_vae, t5_tokenizer, umt5_encoder

# 3 latent frames of 3 x 5 tokens: no layout divides them evenly.
CALL: dict[str, Any] = {
    "prompt": "a photo of a red circle on a blue background",
    "negative_prompt": "a green square",
    "guidance_scale": 3.0,
    "num_inference_steps": 2,
    "height": 48,
    "width": 80,
    "num_frames": 9,
    "max_sequence_length": 21,
}
CALL_TWO: dict[str, Any] = {**CALL, "guidance_scale_2": 2.0}
CALL_IMAGE: dict[str, Any] = {**CALL, "image": Image.linear_gradient("L").convert("RGB").resize((80, 48))}
CALL_TI2V: dict[str, Any] = {**CALL, "height": 96, "width": 160, "num_frames": 5}
VISION_HIDDEN = 32
SIZES: dict[str, Any] = {
    "num_attention_heads": 8,
    "attention_head_dim": 16,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 32,
    "freq_dim": 32,
    "ffn_dim": 192,
    "num_layers": 2,
}


def build_t2v(path: Path) -> Path:
    """Wan 2.1 text to video."""
    return _save(WanPipeline(**common(), transformer=_transformer(seed=4)), path)


def build_two(path: Path) -> Path:
    """Wan 2.2 A14B: one transformer for the noisy steps, another for the rest."""
    transformers = {"transformer": _transformer(seed=4), "transformer_2": _transformer(seed=5)}
    return _save(WanPipeline(**common(), **transformers, boundary_ratio=0.875), path)


def build_i2v(path: Path) -> Path:
    """Wan 2.1 image to video: the image comes in as channels and, through CLIP, as extra keys and values."""
    pipe = WanImageToVideoPipeline(
        **common(),
        transformer=_transformer(seed=4, in_channels=36, image_dim=VISION_HIDDEN, added_kv_proj_dim=128),
        image_encoder=_image_encoder(seed=6),
        image_processor=CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
    )
    return _save(pipe, path)


def build_ti2v(path: Path) -> Path:
    """Wan 2.2 TI2V: a VAE that compresses 16 x 16 x 4 into 48 channels, and a timestep for every token."""
    transformer = _transformer(seed=4, in_channels=48, out_channels=48)
    return _save(WanPipeline(**common(vae=ti2v_vae(seed=1)), transformer=transformer, expand_timesteps=True), path)


def _save(pipe: WanPipeline | WanImageToVideoPipeline, path: Path) -> Path:
    pipe.save_pretrained(path)
    return path


def common(vae: AutoencoderKLWan | None = None) -> dict[str, Any]:
    """All parts but the transformer."""
    tokenizer = t5_tokenizer(max_length=512)
    return {
        "tokenizer": tokenizer,
        "text_encoder": umt5_encoder(tokenizer, seed=2),
        "vae": vae or _vae(seed=1),
        "scheduler": UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
        ),
    }


def _transformer(seed: int, **changed: Any) -> WanTransformer3DModel:
    return randomize(WanTransformer3DModel(**{**SIZES, **changed}), seed)


def _vae(seed: int) -> AutoencoderKLWan:
    return randomize_vae(AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 2, 2, 2], num_res_blocks=1), seed)


def ti2v_vae(seed: int) -> AutoencoderKLWan:
    vae = AutoencoderKLWan(
        base_dim=4,
        decoder_base_dim=4,
        z_dim=48,
        dim_mult=[1, 2, 2, 2],
        num_res_blocks=1,
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
        latents_mean=[0.01 * channel for channel in range(48)],
        latents_std=[1.0 + 0.02 * channel for channel in range(48)],
    )
    return randomize_vae(vae, seed)


def _image_encoder(seed: int) -> CLIPVisionModel:
    config = CLIPVisionConfig(
        hidden_size=VISION_HIDDEN,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=28,
        patch_size=14,
    )
    return randomize(CLIPVisionModel(config), seed)
