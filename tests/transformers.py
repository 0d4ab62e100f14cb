"""Tiny transformers of every sheet with inputs of many shapes, and what the ranks run on them."""

from typing import Any

import torch
from torch import Tensor, nn

import ditmesh
from ditmesh import ParallelismConfig
from ditmesh.collectives import CommunicationCounter
from tests.cases import CASES, variants

Inputs = dict[str, Any]
# batch, height and width in tokens, text tokens, padded prompts
SHAPES = {
    "even": (1, (4, 6), 8, False),
    "odd": (1, (5, 5), 7, False),
    "batch2": (2, (3, 5), 6, False),
    "masked": (3, (3, 5), 13, True),
    "short": (1, (1, 2), 1, False),  # fewer tokens than ranks
}


def build(name: str, shape: tuple[Any, ...], dtype: torch.dtype, seed: int = 0) -> tuple[nn.Module, Inputs]:
    """A transformer and inputs for it, the same on every rank; ``name`` is a case, or "case:variant"."""
    torch.manual_seed(seed)
    case, _, variant = name.partition(":")
    model, inputs = CASES[case].build(*shape, **(variants(case)[variant] if variant else {}))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    floats = {key: x.to(dtype) for key, x in inputs.items() if isinstance(x, Tensor) and x.is_floating_point()}
    return model.to(dtype).eval().requires_grad_(False), inputs | floats


def forward(model: nn.Module, inputs: Inputs) -> Tensor:
    """The model's output; all of them, flat, if it has several."""
    outputs = model(**inputs, return_dict=False)
    return outputs[0] if len(outputs) == 1 else torch.cat([x.flatten() for x in outputs])


def serial(name: str, shape: tuple[Any, ...], dtype: torch.dtype) -> Tensor:
    """What one process computes."""
    return forward(*build(name, shape, dtype))


def parallel(name: str, layout: str, shape: tuple[Any, ...], dtype: torch.dtype) -> Tensor:
    """What a rank of a layout computes."""
    model, inputs = build(name, shape, dtype)
    ditmesh.enable_cache(model, parallelism_config=ParallelismConfig.parse(layout))
    return forward(model, inputs)


def communication(name: str, layout: str, shape: tuple[Any, ...]) -> tuple[dict[str, int], dict[str, int]]:
    """Calls and bytes of one forward on a rank of a layout."""
    model, inputs = build(name, shape, torch.float32)
    ditmesh.enable_cache(model, parallelism_config=ParallelismConfig.parse(layout))
    with CommunicationCounter() as counter:
        forward(model, inputs)
    return dict(counter.calls), dict(counter.bytes)


def relative_error(got: Tensor, want: Tensor) -> float:
    """max |got - want| / max |want|"""
    assert got.shape == want.shape
    return ((got - want).abs().max() / want.abs().max()).item()
