"""A tiny Qwen-Image: double-stream blocks throughout, Qwen2.5-VL as the text encoder, a video VAE."""

from pathlib import Path

from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from .parts import byte_bpe_tokenizer, randomize, randomize_vae

CALL = {
    "prompt": "a photo of a red circle on a blue background",
    "negative_prompt": "a green square",
    "true_cfg_scale": 2.0,
    "num_inference_steps": 2,
    "height": 48,
    "width": 80,
}
SPECIAL_TOKENS = [
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]


def build(path: Path) -> Path:
    tokenizer = byte_bpe_tokenizer(SPECIAL_TOKENS)
    pipe = QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            base_shift=0.5,
            max_shift=0.9,
            base_image_seq_len=256,
            max_image_seq_len=8192,
            shift_terminal=0.02,
            use_dynamic_shifting=True,
            time_shift_type="exponential",
        ),
        vae=_vae(seed=1),
        text_encoder=_text_encoder(tokenizer, seed=2),
        tokenizer=tokenizer,
        transformer=_transformer(seed=3),
    )
    pipe.save_pretrained(path)
    return path


def _transformer(seed: int) -> QwenImageTransformer2DModel:
    transformer = QwenImageTransformer2DModel(
        in_channels=64,
        out_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=8,
        joint_attention_dim=32,
        axes_dims_rope=(4, 6, 6),
    )
    return randomize(transformer, seed)


def _vae(seed: int) -> AutoencoderKLQwenImage:
    return randomize_vae(AutoencoderKLQwenImage(base_dim=4, z_dim=16, dim_mult=[1, 2, 2, 2], num_res_blocks=1), seed)


def _text_encoder(tokenizer: Qwen2Tokenizer, seed: int) -> Qwen2_5_VLForConditionalGeneration:
    token_id = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]},
            "bos_token_id": None,
            "eos_token_id": token_id("<|im_end|>"),
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "depth": 1,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 4,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [0],
        },
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
    )
    return randomize(Qwen2_5_VLForConditionalGeneration(config), seed)
