"""Tokenizers, language models and processors of the Qwen kind, which most image pipelines read their prompts with."""

from typing import Any

from diffusers import AutoencoderKLQwenImage
from transformers import (
    PaddleOCRVLProcessor,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen3Config,
    Qwen3VLConfig,
)

from .parts import byte_bpe_tokenizer, randomize, randomize_vae

HIDDEN = 64
SPECIAL_TOKENS = [
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{{ message.content[0].text }}{% endif %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def qwen_tokenizer() -> Qwen2Tokenizer:
    return Qwen2Tokenizer(
        tokenizer_object=byte_bpe_tokenizer(SPECIAL_TOKENS).backend_tokenizer,
        extra_special_tokens={"image_token": "<|image_pad|>"},
        chat_template=CHAT_TEMPLATE,
    )


def qwen_processor(tokenizer: Qwen2Tokenizer, patch_size: int = 14) -> PaddleOCRVLProcessor:
    """Stands where the pipelines have a Qwen2VLProcessor or Qwen3VLProcessor, which need torchvision for videos.

    Text and pictures go through either alike; a picture becomes six tokens at most.
    """
    area = (2 * patch_size) ** 2
    pictures = Qwen2VLImageProcessor(size={"shortest_edge": area, "longest_edge": 6 * area}, patch_size=patch_size)
    return PaddleOCRVLProcessor(image_processor=pictures, tokenizer=tokenizer, chat_template=CHAT_TEMPLATE)


def qwen3(kind: type[PreTrainedModel], tokenizer: Qwen2Tokenizer, seed: int, **changed: Any) -> PreTrainedModel:
    """A Qwen3Model or a Qwen3ForCausalLM."""
    return randomize(kind(Qwen3Config(**{**decoder_sizes(tokenizer), "head_dim": 8, **changed})), seed)


def qwen2_5_vl(tokenizer: Qwen2Tokenizer, seed: int, **changed: Any) -> Qwen2_5_VLForConditionalGeneration:
    config = Qwen2_5_VLConfig(
        text_config=decoder_sizes(tokenizer) | {"rope_parameters": _rope([2, 1, 1]), **changed},
        vision_config={
            "depth": 1,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 4,
            "out_hidden_size": HIDDEN,
            "fullatt_block_indexes": [0],
        },
        **_token_ids(tokenizer),
    )
    return randomize(Qwen2_5_VLForConditionalGeneration(config), seed)


def qwen3_vl(kind: type[PreTrainedModel], tokenizer: Qwen2Tokenizer, seed: int) -> PreTrainedModel:
    """A Qwen3VLModel or a Qwen3VLForConditionalGeneration."""
    config = Qwen3VLConfig(
        text_config=decoder_sizes(tokenizer) | {"head_dim": 8, "rope_parameters": _rope([2, 1, 1])},
        vision_config={
            "depth": 1,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 4,
            "out_hidden_size": HIDDEN,
            "patch_size": 16,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
        **_token_ids(tokenizer),
    )
    return randomize(kind(config), seed)


def qwen_image_vae(seed: int, **changed: Any) -> AutoencoderKLQwenImage:
    """A picture becomes 16 channels of an eight times lower and narrower one."""
    sizes: dict[str, Any] = {"base_dim": 4, "z_dim": 16, "dim_mult": [1, 2, 2, 2], "num_res_blocks": 1}
    return randomize_vae(AutoencoderKLQwenImage(**{**sizes, **changed}), seed)


def qwen_image_vae_16(seed: int, **changed: Any) -> AutoencoderKLQwenImage:
    """Sixteen times lower and narrower, for pipelines that scale pictures to a megapixel.

    Pixels are divided by the root mean square of their channels: two channels would be zero somewhere in a picture,
    where rounding blows up; four keep well off it.
    """
    downsample = [False, False, True, True]
    return qwen_image_vae(seed, base_dim=4, dim_mult=[1, 1, 2, 2, 2], temperal_downsample=downsample, **changed)


def decoder_sizes(tokenizer: Qwen2Tokenizer) -> dict[str, Any]:
    """The sizes of a small language model, by the names transformers has for them."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "bos_token_id": None,
        "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
        "pad_token_id": tokenizer.pad_token_id,
    }


def _rope(sections: list[int]) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}


def _token_ids(tokenizer: Qwen2Tokenizer) -> dict[str, int]:
    names = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    return {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>") for name, token in names.items()}
