"""A tiny JoyImage-Edit: double-stream blocks throughout, Qwen3-VL as the text encoder, the VAE of Wan."""

from pathlib import Path
from typing import Any

from diffusers import AutoencoderKLWan, JoyImageEditPipeline, JoyImageEditTransformer3DModel
from transformers import Qwen3VLForConditionalGeneration

from .parts import PICTURE, flow_scheduler, randomize, randomize_vae
from .qwen import HIDDEN, qwen3_vl, qwen_processor, qwen_tokenizer

# What it edits and what it draws is a megapixel, whatever is asked for, so its VAE compresses more.
CALL: dict[str, Any] = {
    "prompt": "a photo of a red circle on a blue background",
    "negative_prompt": "a green square",
    "guidance_scale": 2.0,
    "num_inference_steps": 1,
    "image": PICTURE,
}


def build(path: Path) -> Path:
    tokenizer = qwen_tokenizer()
    transformer = JoyImageEditTransformer3DModel(
        in_channels=16,
        out_channels=16,
        hidden_size=64,
        num_attention_heads=8,
        text_dim=HIDDEN,
        num_layers=2,
        rope_dim_list=[2, 2, 4],
    )
    pipe = JoyImageEditPipeline(
        scheduler=flow_scheduler(shift=1.5, use_dynamic_shifting=False),
        vae=_vae(seed=1),
        text_encoder=qwen3_vl(Qwen3VLForConditionalGeneration, tokenizer, seed=2),
        tokenizer=tokenizer,
        transformer=randomize(transformer, seed=3),
        processor=qwen_processor(tokenizer, patch_size=16),
    )
    pipe.save_pretrained(path)
    return path


def _vae(seed: int) -> AutoencoderKLWan:
    vae = AutoencoderKLWan(
        base_dim=4,
        z_dim=16,
        dim_mult=[1, 1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        in_channels=12,
        out_channels=12,
        patch_size=2,
        is_residual=True,
        decoder_base_dim=4,
        scale_factor_spatial=16,
    )
    return randomize_vae(vae, seed)
