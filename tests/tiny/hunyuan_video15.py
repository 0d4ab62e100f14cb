"""A tiny HunyuanVideo-1.5: Qwen2.5-VL's language model and ByT5 for lettering as the text encoders, a guider."""

import inspect
from pathlib import Path
from typing import Any

from diffusers import (
    AutoencoderKLHunyuanVideo15,
    ClassifierFreeGuidance,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
)
from transformers import ByT5Tokenizer, Qwen2Tokenizer
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel

from .parts import byte_bpe_tokenizer, randomize, randomize_vae, t5_encoder

# 3 latent frames of 3 x 5 tokens, beside 1000 + 256 + 729 of text, lettering and image, which are mostly padding.
CALL: dict[str, Any] = {
    "prompt": 'a photo of a red sign that reads "circle" on a blue background',
    "negative_prompt": "a green square",
    "num_inference_steps": 1,
    "height": 48,
    "width": 80,
    "num_frames": 9,
}
# The pipeline drops its 108 tokens, so our tokenizer has to spell it in about as many, a token a word.
TEMPLATE = inspect.signature(HunyuanVideo15Pipeline._get_mllm_prompt_embeds).parameters["system_message"].default
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build(path: Path) -> Path:
    tokenizer, tokenizer_2 = byte_bpe_tokenizer(["<|im_start|>", "<|im_end|>"], TEMPLATE), ByT5Tokenizer()
    tokenizer.chat_template, tokenizer.padding_side = CHAT_TEMPLATE, "right"
    pipe = HunyuanVideo15Pipeline(
        text_encoder=_text_encoder(tokenizer, seed=2),
        tokenizer=tokenizer,
        transformer=_transformer(seed=4),
        vae=_vae(seed=1),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        text_encoder_2=t5_encoder(tokenizer_2, seed=3),
        tokenizer_2=tokenizer_2,
        guider=ClassifierFreeGuidance(guidance_scale=6.0),
    )
    pipe.save_pretrained(path)
    return path


def _transformer(seed: int) -> HunyuanVideo15Transformer3DModel:
    transformer = HunyuanVideo15Transformer3DModel(
        in_channels=2 * 4 + 1,
        out_channels=4,
        num_attention_heads=8,
        attention_head_dim=12,
        num_layers=2,
        num_refiner_layers=1,
        text_embed_dim=32,
        text_embed_2_dim=32,
        image_embed_dim=16,
        rope_axes_dim=(4, 4, 4),
        target_size=64,
        task_type="t2v",
    )
    return randomize(transformer, seed)


def _vae(seed: int) -> AutoencoderKLHunyuanVideo15:
    vae = AutoencoderKLHunyuanVideo15(latent_channels=4, block_out_channels=(8, 8, 8, 16, 16), layers_per_block=1)
    return randomize_vae(vae, seed)


def _text_encoder(tokenizer: Qwen2Tokenizer, seed: int) -> Qwen2_5_VLTextModel:
    config = Qwen2_5_VLTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,  # the pipeline drops the last two
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 0]},
        bos_token_id=None,
        eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
        pad_token_id=tokenizer.pad_token_id,
    )
    return randomize(Qwen2_5_VLTextModel(config), seed)
