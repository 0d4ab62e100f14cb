"""Tiny transformers of every sheet with inputs of many shapes, and what the ranks run on them."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

import ditmesh
from ditmesh import ParallelismConfig
from ditmesh.upstream.counting import CommunicationCounter
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
    return model.to(dtype).eval().requires_grad_(False), tree_map(
        lambda x: x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x, inputs
    )


class InFloat64(TorchFunctionMode):
    """Compute in float64 what a model asks to be in float32: rounding in between would hide what float64 is to show."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        wider = {torch.float32: torch.float64, torch.complex64: torch.complex128}
        args, kwargs = tree_map(lambda x: wider.get(x, x) if isinstance(x, torch.dtype) else x, (args, kwargs or {}))
        return (Tensor.double if func is Tensor.float else func)(*args, **kwargs)


def forward(model: nn.Module, inputs: Inputs) -> Tensor:
    """The model's output; all of them, flat, if it has several.

    ``earlier`` inputs are of calls that come first; what the model was given and returns is no output.
    """
    inputs = dict(inputs)
    earlier = inputs.pop("earlier", [])
    in_float64 = any(parameter.dtype == torch.float64 for parameter in model.parameters())
    with InFloat64() if in_float64 else nullcontext():
        for first in earlier:
            model(**first, return_dict=False)
        outputs = tree_leaves(model(**inputs, return_dict=False))
    given = {id(x) for x in tree_leaves(inputs)}
    outputs = [x for x in outputs if id(x) not in given]
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
