"""Compare a model on many ranks to one process, in every shape that could break a sheet."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import ditmesh
from ditmesh import ParallelismConfig
from ditmesh.spec import ModelSpec
from ditmesh.upstream.trees import tree_leaves, tree_map

Inputs = dict[str, Any]
Build = Callable[[int, tuple[int, int], int, bool], tuple[nn.Module, Inputs]]
# batch, height and width in tokens, text tokens, padded prompts
SHAPES = {
    "even": (1, (4, 6), 8, False),
    "odd": (1, (5, 5), 7, False),
    "batch2": (2, (3, 5), 6, False),
    "masked": (3, (3, 5), 13, True),
    "short": (1, (1, 2), 1, False),  # fewer tokens than ranks
}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


@dataclass(frozen=True)
class Row:
    """How far a layout's output is from that of one process, or why there is none."""

    layout: str
    shape: str
    dtype: torch.dtype
    error: float = float("inf")
    refused: str = ""

    @property
    def is_right(self) -> bool:
        return not self.refused and self.error <= TOLERANCE[self.dtype]

    def __str__(self) -> str:
        verdict = f"refused: {self.refused}" if self.refused else "ok" if self.is_right else "WRONG"
        number = "-" if self.refused else f"{self.error:.1e}"
        return f"{self.layout:<16} {self.shape:<8} {str(self.dtype).removeprefix('torch.'):<8} {number:<8} {verdict}"


def compare(spec: ModelSpec, build: Build, layouts: list[str], masked: bool) -> Iterator[Row]:
    """Each layout in each shape, on the ranks of this job, all of which call this.

    Raises:
        ValueError: what was built is not what the sheet is of, or says nothing.
    """
    ditmesh.register(spec, replace=True)
    for layout in layouts:
        for shape in SHAPES:
            for dtype in TOLERANCE if masked or shape != "masked" else ():
                yield _compare(spec, build, layout, shape, dtype)


def _compare(spec: ModelSpec, build: Build, layout: str, shape: str, dtype: torch.dtype) -> Row:
    want = forward(*_checked(spec, *randomize(build, SHAPES[shape], dtype)))
    if not want.isfinite().all() or want.std() < 1e-3:
        raise ValueError(
            f"{spec.transformer}, {shape}: one process gives {want.std():.1e}; build a model that says more."
        )
    model, inputs = randomize(build, SHAPES[shape], dtype)
    try:
        ditmesh.enable_cache(model, parallelism_config=ParallelismConfig.parse(layout))
    except ValueError as error:  # the same on every rank
        return Row(layout, shape, dtype, refused=" ".join(str(error).split()))
    worst = torch.tensor([relative_error(forward(model, inputs), want)], dtype=torch.float64)
    dist.all_reduce(worst, dist.ReduceOp.MAX)
    return Row(layout, shape, dtype, worst.item())


def _checked(spec: ModelSpec, model: nn.Module, inputs: Inputs) -> tuple[nn.Module, Inputs]:
    if type(model).__name__ != spec.transformer:
        raise ValueError(f"the sheet is of {spec.transformer}, and what was built is a {type(model).__name__}.")
    return model, inputs


def randomize(build: Build, shape: tuple[Any, ...], dtype: torch.dtype, seed: int = 0) -> tuple[nn.Module, Inputs]:
    """A model whose weights all count, and inputs for it, the same on every rank."""
    torch.manual_seed(seed)
    model, inputs = build(*shape)
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


def relative_error(got: Tensor, want: Tensor) -> float:
    """max |got - want| / max |want|; infinite for another shape."""
    return ((got - want).abs().max() / want.abs().max()).item() if got.shape == want.shape else float("inf")
