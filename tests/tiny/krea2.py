"""A tiny Krea 2: one stream, text from several layers of Qwen3-VL fused before it, fewer key and value heads."""

from pathlib import Path
from typing import Any

from diffusers import Krea2Pipeline, Krea2Transformer2DModel
from transformers import Qwen3VLModel

from .parts import GUIDED, flow_scheduler, randomize
from .qwen import HIDDEN, qwen3_vl, qwen_image_vae, qwen_tokenizer

CALL: dict[str, Any] = {**GUIDED, "max_sequence_length": 37}


def build(path: Path) -> Path:
    tokenizer = qwen_tokenizer()
    transformer = Krea2Transformer2DModel(
        in_channels=64,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=8,
        num_key_value_heads=4,
        intermediate_size=192,
        timestep_embed_dim=32,
        text_hidden_dim=HIDDEN,
        num_text_layers=3,
        text_num_attention_heads=4,
        text_num_key_value_heads=4,
        text_intermediate_size=64,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 6, 6),
    )
    pipe = Krea2Pipeline(
        scheduler=flow_scheduler(),
        vae=qwen_image_vae(seed=1),
        text_encoder=qwen3_vl(Qwen3VLModel, tokenizer, seed=2),
        tokenizer=tokenizer,
        transformer=randomize(transformer, seed=3),
        text_encoder_select_layers=(0, 1, 2),
    )
    pipe.save_pretrained(path)
    return path
