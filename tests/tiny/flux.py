"""A tiny FLUX.1: two double-stream and two single-stream blocks, 8 heads, guidance embedded."""

from pathlib import Path

from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

from .parts import clip_text_model, clip_tokenizer, randomize, randomize_vae, t5_encoder, t5_tokenizer

# 3 x 5 image tokens: no layout divides them evenly. T5 is given less than its 512 tokens to keep the tests short.
CALL = {
    "prompt": "a photo of a red circle on a blue background",
    "negative_prompt": "a green square",
    "true_cfg_scale": 2.0,
    "guidance_scale": 3.5,
    "num_inference_steps": 2,
    "height": 48,
    "width": 80,
    "max_sequence_length": 21,
}


def build(path: Path) -> Path:
    tokenizer, tokenizer_2 = clip_tokenizer(), t5_tokenizer(max_length=512)
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=_vae(seed=1),
        text_encoder=clip_text_model(tokenizer, seed=2),
        tokenizer=tokenizer,
        text_encoder_2=t5_encoder(tokenizer_2, seed=3),
        tokenizer_2=tokenizer_2,
        transformer=_transformer(seed=4),
    )
    pipe.save_pretrained(path)
    return path


def _transformer(seed: int) -> FluxTransformer2DModel:
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=8,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )
    return randomize(transformer, seed)


def _vae(seed: int) -> AutoencoderKL:
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=0.3611,
        shift_factor=0.1159,
    )
    return randomize_vae(vae, seed)
