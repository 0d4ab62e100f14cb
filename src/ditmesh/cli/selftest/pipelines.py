"""Tiny pipelines of four families, made on the spot: diffusers' own classes, random weights, nothing downloaded."""

from collections.abc import Mapping
from math import lcm, sqrt
from pkgutil import resolve_name
from typing import Any

import diffusers
import torch
import transformers
from torch import nn

import ditmesh
from ditmesh.cli.examples import find_example
from ditmesh.cli.selftest.cases import DEMO, FOLDER, PIPELINES
from ditmesh.job.classes import diffusers_class

DEMO_STEPS = 8


def call_of(name: str) -> dict[str, Any]:
    """The arguments of a short call."""
    if name != DEMO:
        return PIPELINES[name]["call"]
    example = find_example(DEMO)
    size = {"height": example.height, "width": example.width, "num_inference_steps": DEMO_STEPS}
    return {"prompt": example.prompt, **example.call, **size}


def build(name: str, ranks: int, dtype: torch.dtype) -> Any:
    """A pipeline for so many ranks; the same on each of them."""
    if name == DEMO:
        return ditmesh.from_pretrained(FOLDER, dtype=dtype, device="cpu")
    facts = PIPELINES[name]
    heads = lcm(ranks, 4)
    sizes = {"HEADS": heads, "WIDTH": 16 * heads, "BLOCKS": max(2, ranks)}
    parts = {part: make(_sized(config, sizes), dtype) for part, config in facts["modules"].items()}
    for part, folder in facts["tokenizers"].items():
        parts[part] = transformers.AutoTokenizer.from_pretrained(FOLDER / folder)
    return diffusers_class(facts["class"])(**parts)


def make(config: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """A part of a pipeline by its class and sizes."""
    config = dict(config)
    name = config.pop("class")
    if name in dir(diffusers):
        part = diffusers_class(name)(**config)
    else:
        kind = resolve_name(f"transformers:{name}")
        part = kind(kind.config_class(**config))
    return randomize(part).to(dtype) if isinstance(part, nn.Module) else part


def randomize(module: nn.Module) -> nn.Module:
    """Fill every parameter so that signals keep their size, and no bias or norm is zero or one by accident: a wrong
    shard of such would be invisible. Pictures keep off black and white, where clipping hides an error.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                noise *= (0.5 if "conv_out" in name else 1) / sqrt(parameter[0].numel())
            else:
                noise = 0.1 * noise + name.endswith("weight")
            parameter.copy_(noise.view_as(parameter))
    return module.eval().requires_grad_(False)


def _sized(config: Any, sizes: Mapping[str, int]) -> Any:
    """The configuration with numbers in place of the words for them."""
    if isinstance(config, dict):
        return {key: _sized(value, sizes) for key, value in config.items()}
    return sizes.get(config, config) if isinstance(config, str) else config
