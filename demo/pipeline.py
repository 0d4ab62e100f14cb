"""The parts of the demonstration pipeline, untrained, and the one call that puts them together."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from demo.autoencoder import LATENT_CHANNELS

TEXT_WIDTH = 64
HEADS = 8  # so that attention can be shared out over 2, 4 or 8 ranks
HEAD_WIDTH = 16


def new_transformer() -> FluxTransformer2DModel:
    """Two joint and four single blocks; modulations and output start at zero, which trains faster."""
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * LATENT_CHANNELS,  # two by two latents make a token
        num_layers=2,
        num_single_layers=4,
        num_attention_heads=HEADS,
        attention_head_dim=HEAD_WIDTH,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        guidance_embeds=False,
        axes_dims_rope=(4, 6, 6),
    )
    for name, module in transformer.named_modules():
        if name == "proj_out" or name.endswith((".norm.linear", ".norm1.linear", ".norm1_context.linear")):
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)
    return transformer


def new_clip(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def new_t5(tokenizer: T5Tokenizer) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=TEXT_WIDTH,
        d_kv=16,
        num_heads=4,
        d_ff=2 * TEXT_WIDTH,
        num_layers=2,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    return T5EncoderModel(config)


def new_scheduler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0, use_dynamic_shifting=False)


def assemble(
    vae: AutoencoderKL,
    transformer: FluxTransformer2DModel,
    clip: tuple[CLIPTokenizer, CLIPTextModel],
    t5: tuple[T5Tokenizer, T5EncoderModel],
) -> FluxPipeline:
    return FluxPipeline(
        scheduler=new_scheduler(),
        vae=vae,
        tokenizer=clip[0],
        text_encoder=clip[1],
        tokenizer_2=t5[0],
        text_encoder_2=t5[1],
        transformer=transformer,
    )
