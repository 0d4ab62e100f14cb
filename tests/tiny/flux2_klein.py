"""Tiny FLUX.2 klein pipelines: the transformer of FLUX.2 with Qwen3 as the text encoder, pictures to edit as tokens."""

from pathlib import Path
from typing import Any

from diffusers import Flux2KleinKVPipeline, Flux2KleinPipeline
from transformers import Qwen3ForCausalLM

from . import flux2
from .parts import PICTURE, flow_scheduler, flux2_vae
from .qwen import HIDDEN, qwen3, qwen_tokenizer

# Two guidance branches, as the base models have them; the distilled ones leave guidance_scale alone.
CALL: dict[str, Any] = {**flux2.CALL, "max_sequence_length": 37, "text_encoder_out_layers": (1, 2, 3)}
CALL_EDIT: dict[str, Any] = {**CALL, "image": [PICTURE.resize((80, 64)), PICTURE.resize((64, 112))]}  # 64 at least
CALL_KV: dict[str, Any] = {key: value for key, value in CALL_EDIT.items() if key != "guidance_scale"}


def build(path: Path) -> Path:
    Flux2KleinPipeline(**_common(), is_distilled=False).save_pretrained(path)
    return path


def build_kv(path: Path) -> Path:
    """The keys and values of the pictures to edit are computed in the first step only."""
    Flux2KleinKVPipeline(**_common()).save_pretrained(path)
    return path


def _common() -> dict[str, Any]:
    tokenizer = qwen_tokenizer()
    return {
        "scheduler": flow_scheduler(),
        "vae": flux2_vae(seed=1),
        "text_encoder": qwen3(Qwen3ForCausalLM, tokenizer, seed=2, num_hidden_layers=3),
        "tokenizer": tokenizer,
        "transformer": flux2.transformer(seed=3, text_dim=HIDDEN),
    }
