"""A tiny Cosmos 3: one transformer reads the text and draws the film, with no text encoder beside it."""

from pathlib import Path
from typing import Any

from diffusers import Cosmos3OmniPipeline, Cosmos3OmniTransformer
from transformers import Qwen2Tokenizer

from .parts import byte_bpe_tokenizer, randomize
from .wan import common, ti2v_vae

# 3 latent frames of 3 x 5 tokens after the text: no layout divides them evenly.
CALL: dict[str, Any] = {
    "prompt": "a photo of a red circle on a blue background",
    "negative_prompt": "a green square",
    "guidance_scale": 3.0,
    "num_inference_steps": 2,
    "height": 96,
    "width": 160,
    "num_frames": 9,
    "use_system_prompt": False,
    "add_resolution_template": False,
    "add_duration_template": False,
}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build(path: Path) -> Path:
    tokenizer = byte_bpe_tokenizer(["<|im_start|>", "<|im_end|>", "<|vision_start|>"])
    tokenizer.chat_template = CHAT_TEMPLATE
    wan = common(vae=ti2v_vae(seed=1))
    pipe = Cosmos3OmniPipeline(
        transformer=_transformer(tokenizer, seed=2),
        text_tokenizer=tokenizer,
        vae=wan["vae"],
        scheduler=wan["scheduler"],
        enable_safety_checker=False,
    )
    pipe.save_pretrained(path)
    return path


def _transformer(tokenizer: Qwen2Tokenizer, seed: int) -> Cosmos3OmniTransformer:
    transformer = Cosmos3OmniTransformer(
        hidden_size=64,
        intermediate_size=128,
        head_dim=16,
        num_attention_heads=8,
        num_key_value_heads=4,
        num_hidden_layers=2,
        rope_axes_dim=(4, 2, 2),
        vocab_size=len(tokenizer),
        dtype="float32",
    )
    return randomize(transformer, seed)
