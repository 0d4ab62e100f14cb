"""Tiny Z-Image pipelines: one stream, refined before image and text meet; the ControlNet lends the refiners."""

import shutil
from pathlib import Path
from typing import Any

from diffusers import (
    ZImageControlNetModel,
    ZImageControlNetPipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import Qwen3ForCausalLM

from .parts import GUIDED, PICTURE, autoencoder_kl, flow_scheduler, randomize
from .qwen import HIDDEN, qwen3, qwen_tokenizer

CALL: dict[str, Any] = {**GUIDED, "max_sequence_length": 37}
CALL_TURBO: dict[str, Any] = {
    **{key: value for key, value in CALL.items() if key != "negative_prompt"},
    "guidance_scale": 0.0,
}
CALL_CONTROL: dict[str, Any] = {**CALL_TURBO, "control_image": PICTURE}
_SIZES: dict[str, Any] = {
    "dim": 64,
    "n_refiner_layers": 1,
    "n_heads": 8,
    "n_kv_heads": 8,
}


def build(path: Path) -> Path:
    ZImagePipeline(**_common()).save_pretrained(path)
    return path


def build_controlnet(path: Path) -> Path:
    """The second ControlNet: its own refiners, and the picture of what to draw beside a masked one."""
    ZImageControlNetPipeline(**_common(), controlnet=_controlnet(seed=4)).save_pretrained(path)
    # The pipeline has lent it modules of the transformer, which its checkpoints do not hold.
    shutil.rmtree(path / "controlnet")
    _controlnet(seed=4).save_pretrained(path / "controlnet")
    return path


def _controlnet(seed: int) -> ZImageControlNetModel:
    controlnet = ZImageControlNetModel(
        control_layers_places=[0],
        control_refiner_layers_places=[0],
        control_in_dim=33,
        add_control_noise_refiner="control_noise_refiner",
        **_SIZES,
    )
    return randomize(controlnet, seed)


def _common() -> dict[str, Any]:
    tokenizer = qwen_tokenizer()
    transformer = ZImageTransformer2DModel(
        n_layers=2, cap_feat_dim=HIDDEN, axes_dims=[4, 2, 2], axes_lens=[256, 32, 32], **_SIZES
    )
    return {
        "scheduler": flow_scheduler(),
        "vae": autoencoder_kl(seed=1, latent_channels=16),
        "text_encoder": qwen3(Qwen3ForCausalLM, tokenizer, seed=2),
        "tokenizer": tokenizer,
        "transformer": randomize(transformer, seed=3),
    }
