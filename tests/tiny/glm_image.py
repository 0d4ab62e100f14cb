"""A tiny GLM-Image: a language model writes coarse image tokens first, ByT5 reads glyphs, the transformer draws.

It has no call that edits: diffusers 0.42.1 hands transformers 5.23 one row of a picture after the other to tokenize.
"""

from pathlib import Path
from typing import Any

from diffusers import GlmImagePipeline, GlmImageTransformer2DModel
from transformers import (
    ByT5Tokenizer,
    GlmImageConfig,
    GlmImageForConditionalGeneration,
    GlmImageProcessor,
    Qwen2Tokenizer,
)
from transformers.models.glm_image.image_processing_pil_glm_image import GlmImageImageProcessorPil

from .parts import autoencoder_kl, byte_bpe_tokenizer, flow_scheduler, randomize, t5_encoder
from .qwen import decoder_sizes

# Text in quotation marks goes through ByT5; 3 x 5 coarse tokens, four of the transformer's for each.
CALL: dict[str, Any] = {
    "prompt": 'a photo of a red circle with the text "red" on a blue background',
    "guidance_scale": 2.0,
    "num_inference_steps": 2,
    "height": 96,
    "width": 160,
}
CODES = 32  # in the codebook of the coarse tokens
SPECIAL_TOKENS = ["<|image|>", "<|grid_bos|>", "<|grid_eos|>", "<|image_start|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|image|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endfor %}"
)


def build(path: Path) -> Path:
    tokenizer, byte_tokenizer = _tokenizer(), ByT5Tokenizer()
    transformer = GlmImageTransformer2DModel(
        in_channels=16,
        out_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=8,
        text_embed_dim=32,
        time_embed_dim=32,
        condition_dim=16,
        prior_vq_quantizer_codebook_size=CODES,
    )
    pictures = GlmImageImageProcessorPil(
        size={"shortest_edge": 64 * 64, "longest_edge": 96 * 160}, patch_size=16, merge_size=1, temporal_patch_size=1
    )
    pipe = GlmImagePipeline(
        tokenizer=byte_tokenizer,
        processor=GlmImageProcessor(image_processor=pictures, tokenizer=tokenizer, chat_template=CHAT_TEMPLATE),
        text_encoder=t5_encoder(byte_tokenizer, seed=2),
        vision_language_encoder=_language_model(tokenizer, seed=3),
        vae=autoencoder_kl(seed=1, latent_channels=16, latents_mean=[0.01] * 16, latents_std=[1.5] * 16),
        transformer=randomize(transformer, seed=4),
        scheduler=flow_scheduler(base_shift=0.25, max_shift=0.75, time_shift_type="linear"),
    )
    pipe.save_pretrained(path)
    return path


def _tokenizer() -> Qwen2Tokenizer:
    names = ("image_token", "grid_bos_token", "grid_eos_token", "bos_token")
    tokens = dict(zip(names, SPECIAL_TOKENS, strict=True))
    return Qwen2Tokenizer(
        tokenizer_object=byte_bpe_tokenizer(SPECIAL_TOKENS).backend_tokenizer,
        bos_token=tokens.pop("bos_token"),
        extra_special_tokens=tokens,
        padding_side="left",
    )


def _language_model(tokenizer: Qwen2Tokenizer, seed: int) -> GlmImageForConditionalGeneration:
    sizes = decoder_sizes(tokenizer)
    config = GlmImageConfig(
        text_config={
            **{name: sizes[name] for name in sizes if name != "bos_token_id"},
            "num_hidden_layers": 1,
            "vision_vocab_size": CODES,
            "eos_token_id": CODES + 1,  # no code, so every picture gets all of its tokens
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
        },
        vision_config={"depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "image_size": 64},
        vq_config={"embed_dim": 16, "num_embeddings": CODES, "latent_channels": 32},
        image_token_id=tokenizer.convert_tokens_to_ids("<|image|>"),
        image_start_token_id=tokenizer.convert_tokens_to_ids("<|image_start|>"),
        image_end_token_id=CODES + 1,
    )
    return randomize(GlmImageForConditionalGeneration(config), seed)
