"""A tiny FIBO: every block reads a layer of SmolLM3 of its own; the VAE of Wan 2.2."""

from pathlib import Path
from typing import Any

from diffusers import AutoencoderKLWan, BriaFiboPipeline, BriaFiboTransformer2DModel
from transformers import SmolLM3Config, SmolLM3ForCausalLM

from .parts import flow_scheduler, randomize, randomize_vae
from .qwen import qwen_tokenizer

# The prompts differ in length, so that one of the two in a batch is padded.
CALL: dict[str, Any] = {
    "prompt": "a photo of a red circle on a blue background",
    "negative_prompt": "a green square",
    "guidance_scale": 2.0,
    "num_inference_steps": 2,
    "height": 96,
    "width": 160,
    "max_sequence_length": 64,
}
HIDDEN = 8


def build(path: Path) -> Path:
    transformer = BriaFiboTransformer2DModel(
        in_channels=48,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=8,
        joint_attention_dim=2 * HIDDEN,  # the pipeline stacks the last two hidden states
        text_encoder_dim=HIDDEN,
        axes_dims_rope=[2, 2, 4],
    )
    pipe = BriaFiboPipeline(
        transformer=randomize(transformer, seed=3),
        scheduler=flow_scheduler(),
        vae=_vae(seed=1),
        text_encoder=_text_encoder(seed=2),
        tokenizer=qwen_tokenizer(),
    )
    pipe.save_pretrained(path)
    return path


def _text_encoder(seed: int) -> SmolLM3ForCausalLM:
    config = SmolLM3Config(
        vocab_size=128001,  # an empty prompt is token 128000
        hidden_size=HIDDEN,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=4,
        no_rope_layers=[1, 1, 0],
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    return randomize(SmolLM3ForCausalLM(config), seed)


def _vae(seed: int) -> AutoencoderKLWan:
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
