"""The fact sheets, by the exact class name of the model they describe: every file of this folder is one.

Text encoders and autoencoders need no sheet, since what to do is read off their modules. Those listed here are the
classes that tests hold to one process; the tests keep the lists true.
"""

import importlib
import pkgutil
from typing import Any

from ditmesh.spec import ModelSpec

_SHEETS = [importlib.import_module(f"{__name__}.{sheet.name}").SPEC for sheet in pkgutil.iter_modules(__path__)]
SPECS: dict[str, ModelSpec] = {spec.transformer: spec for spec in _SHEETS if not spec.controls}
CONTROLNETS: dict[str, ModelSpec] = {spec.transformer: spec for spec in _SHEETS if spec.controls}

# Class -> the modules of it that every rank keeps whole, beside its norms; "" is all of it.
TEXT_ENCODERS: dict[str, tuple[str, ...]] = {
    "T5EncoderModel": (),
    "UMT5EncoderModel": (),
    "LlamaModel": (),
    "LlamaForCausalLM": (),
    "GemmaModel": (),
    "Gemma2Model": (),
    "Gemma3ForCausalLM": (),
    "Gemma3ForConditionalGeneration": ("model.vision_tower", "model.multi_modal_projector"),
    "MistralModel": (),
    "MistralForCausalLM": (),
    "Mistral3Model": ("vision_tower", "multi_modal_projector"),
    "Mistral3ForConditionalGeneration": ("model.vision_tower", "model.multi_modal_projector"),
    "Qwen2_5_VLForConditionalGeneration": ("model.visual",),
    "Qwen3Model": (),
    "Qwen3ForCausalLM": (),
    "Qwen3VLModel": ("visual",),
    "Qwen3VLForConditionalGeneration": ("model.visual",),
    "GlmModel": (),
    "GlmForCausalLM": (),
    "Glm4Model": (),
    "Glm4ForCausalLM": (),
    "SmolLM3ForCausalLM": (),
    "CLIPTextModel": ("",),
    "CLIPTextModelWithProjection": ("",),
}

# Class -> the dimensions of what it encodes.
AUTOENCODERS: dict[str, str] = {
    "AutoencoderKL": "BCHW",
    "AutoencoderKLFlux2": "BCHW",
    "AutoencoderKLHunyuanImage": "BCHW",
    "AutoencoderDC": "BCHW",
    "AutoencoderKLCogVideoX": "BCFHW",
    "AutoencoderKLHunyuanVideo": "BCFHW",
    "AutoencoderKLHunyuanVideo15": "BCFHW",
    "AutoencoderKLLTXVideo": "BCFHW",
    "AutoencoderKLLTX2Video": "BCFHW",
    "AutoencoderKLMochi": "BCFHW",
    "AutoencoderKLQwenImage": "BCFHW",
    "AutoencoderKLQwenImage21": "BCFHW",
    "AutoencoderKLWan": "BCFHW",
}

# Scheduler class -> its options under which a step makes token i of token i of output and latents alone, without noise
# or a memory of earlier steps, and returns nothing but the latents. No other scheduler is known to.
TOKENWISE_SCHEDULERS: dict[str, dict[str, Any]] = {
    "FlowMatchEulerDiscreteScheduler": {"stochastic_sampling": False},
    "FlowMapEulerDiscreteScheduler": {},
    "LTXEulerAncestralRFScheduler": {"eta": 0.0},
    "MiniMaxH3Scheduler": {},
}


def spec_of(model: str) -> ModelSpec:
    """The fact sheet of a transformer or ControlNet class, or a ValueError that names those there are."""
    known = SPECS | CONTROLNETS
    if model not in known:
        raise ValueError(f"ditmesh has no fact sheet for {model}; it knows {', '.join(sorted(known))}.")
    return known[model]
