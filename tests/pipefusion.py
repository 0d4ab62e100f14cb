"""What ranks run for the tests of PipeFusion: a pipeline's loop around a tiny transformer."""

from typing import Any

import torch
from torch import Tensor

import ditmesh
from ditmesh import ParallelismConfig
from tests.transformers import build, forward

ODD = (2, (3, 5), 7, False)


def config(layout: str, **kwargs: Any) -> ParallelismConfig:
    """A layout, and how it is cut in time."""
    sizes = {f"{axis}_size": size for axis, size in ParallelismConfig.parse(layout).sizes.items()}
    return ParallelismConfig(**sizes, **kwargs)


def whole(name: str, layout: str, shape: tuple[Any, ...], dtype: torch.dtype) -> tuple[Tensor, int]:
    """A forward that is not cut in time, and how many parameters the rank held for it."""
    model, inputs = build(name, shape, dtype)
    ditmesh.enable_cache(model, parallelism_config=config(layout, num_pipeline_patch=1))
    held = sum(weight.numel() for weight in model.parameters())
    return forward(model, inputs), held


def enable_and_disable(name: str, layout: str) -> bool:
    """Whether every weight and the forward are back, to the bit."""
    model, inputs = build(name, ODD, torch.float32)
    before = {key: x.clone() for key, x in model.state_dict().items()}
    want = forward(model, inputs)
    ditmesh.enable_cache(model, parallelism_config=config(layout, num_pipeline_patch=1))
    forward(model, inputs)
    ditmesh.disable_cache(model)
    after = model.state_dict()
    return all(torch.equal(after[key], x) for key, x in before.items()) and torch.equal(forward(model, inputs), want)
