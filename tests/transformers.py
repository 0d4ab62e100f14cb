"""Tiny transformers of every sheet with inputs of many shapes, and what the ranks run on them."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import ditmesh
from ditmesh import ParallelismConfig
from ditmesh.cli.check_model.parity import SHAPES, InFloat64, Inputs, forward, randomize, relative_error
from tests.cases import CASES, variants
from tests.counting import CommunicationCounter

__all__ = ["SHAPES", "InFloat64", "Inputs", "build", "communication", "forward", "parallel", "relative_error", "serial"]


def build(name: str, shape: tuple[Any, ...], dtype: torch.dtype, seed: int = 0) -> tuple[nn.Module, Inputs]:
    """A transformer and inputs for it, the same on every rank; ``name`` is a case, or "case:variant"."""
    case, _, variant = name.partition(":")
    return randomize(partial(CASES[case].build, **(variants(case)[variant] if variant else {})), shape, dtype, seed)


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
