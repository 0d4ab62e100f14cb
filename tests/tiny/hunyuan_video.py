"""Tiny HunyuanVideo pipelines: text to video and Framepack with Llama, image to video with Llava, CLIP in all."""

from pathlib import Path
from typing import Any

from diffusers import (
    AutoencoderKLHunyuanVideo,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoFramepackPipeline,
    HunyuanVideoFramepackTransformer3DModel,
    HunyuanVideoImageToVideoPipeline,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaModel,
    LlamaTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from .parts import clip_text_model, clip_tokenizer, llama_tokenizer, randomize, randomize_vae

# 3 latent frames of 3 x 5 tokens: no layout divides them evenly. A template of 95 tokens would only cost time.
CALL: dict[str, Any] = {
    "prompt": "a photo of a red circle on a blue background",
    "negative_prompt": "a green square",
    "true_cfg_scale": 2.0,
    "guidance_scale": 6.0,
    "num_inference_steps": 2,
    "height": 48,
    "width": 80,
    "num_frames": 9,
    "prompt_template": {"template": "a photo of {}", "crop_start": 4},
    "max_sequence_length": 27,
}
# Two sections of 2 latent frames, the second with the first in its history.
CALL_FRAMEPACK: dict[str, Any] = {
    **CALL,
    "image": Image.linear_gradient("L").convert("RGB").resize((80, 48)),
    "latent_window_size": 2,
    "num_frames": 9,
}
VISION_HIDDEN = 32
# The pipeline puts the image's 4 tokens in the place of one, and drops the 4 tokens that introduce the answer.
HEADER = "<|end_header_id|>"
CALL_IMAGE: dict[str, Any] = {
    **CALL,
    "guidance_scale": 1.0,
    "image": CALL_FRAMEPACK["image"],
    "prompt_template": {
        "template": f"{HEADER}<image>{HEADER}{{}}{3 * '<|eot_id|>'}{HEADER}",
        "crop_start": 3,
        "image_emb_start": 1,
        "image_emb_end": 5,
        "image_emb_len": 4,
    },
}


def build(path: Path) -> Path:
    HunyuanVideoPipeline(
        **_common(), transformer=randomize(HunyuanVideoTransformer3DModel(**_sizes()), seed=4)
    ).save_pretrained(path)
    return path


def build_i2v(path: Path) -> Path:
    """The image comes in as channels and through Llava."""
    parts = _common()
    parts["tokenizer"].add_tokens(["<image>", "<|eot_id|>", HEADER], special_tokens=True)
    transformer = HunyuanVideoTransformer3DModel(
        **_sizes() | {"in_channels": 2 * 4 + 1, "image_condition_type": "latent_concat"}
    )
    HunyuanVideoImageToVideoPipeline(
        **parts | {"text_encoder": _llava(parts["tokenizer"], seed=2)},
        transformer=randomize(transformer, seed=4),
        image_processor=CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
    ).save_pretrained(path)
    return path


def build_framepack(path: Path) -> Path:
    transformer = HunyuanVideoFramepackTransformer3DModel(
        **_sizes(), has_image_proj=True, image_proj_dim=VISION_HIDDEN, has_clean_x_embedder=True
    )
    HunyuanVideoFramepackPipeline(
        **_common(),
        transformer=randomize(transformer, seed=4),
        image_encoder=_image_encoder(seed=5),
        feature_extractor=SiglipImageProcessor(size={"height": 28, "width": 28}),
    ).save_pretrained(path)
    return path


def _common() -> dict[str, Any]:
    tokenizer, tokenizer_2 = llama_tokenizer(max_length=256), clip_tokenizer()
    return {
        "text_encoder": _text_encoder(tokenizer, seed=2),
        "tokenizer": tokenizer,
        "vae": _vae(seed=1),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
        "text_encoder_2": clip_text_model(tokenizer_2, seed=3),
        "tokenizer_2": tokenizer_2,
    }


def _sizes() -> dict[str, Any]:
    return {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 8,
        "attention_head_dim": 12,
        "num_layers": 2,
        "num_single_layers": 2,
        "num_refiner_layers": 1,
        "text_embed_dim": 32,
        "pooled_projection_dim": 32,
        "rope_axes_dim": (4, 4, 4),
    }


def _vae(seed: int) -> AutoencoderKLHunyuanVideo:
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(8, 8, 8, 16), layers_per_block=1, norm_num_groups=4
    )
    return randomize_vae(vae, seed)


def _text_encoder(tokenizer: LlamaTokenizer, seed: int) -> LlamaModel:
    return randomize(LlamaModel(_llama(tokenizer)), seed)


def _llama(tokenizer: LlamaTokenizer) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,  # the pipeline drops the last two
        num_attention_heads=8,
        num_key_value_heads=4,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def _llava(tokenizer: LlamaTokenizer, seed: int) -> LlavaForConditionalGeneration:
    vision = CLIPVisionConfig(
        hidden_size=VISION_HIDDEN,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=28,
        patch_size=14,
    )
    config = LlavaConfig(
        text_config=_llama(tokenizer),
        vision_config=vision,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
        pad_token_id=tokenizer.pad_token_id,
    )
    return randomize(LlavaForConditionalGeneration(config), seed)


def _image_encoder(seed: int) -> SiglipVisionModel:
    config = SiglipVisionConfig(
        hidden_size=VISION_HIDDEN,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        image_size=28,
        patch_size=14,
    )
    return randomize(SiglipVisionModel(config), seed)
