"""Offloading to the CPU, before or after enable_cache: its hooks and ours live side by side, or it is refused."""

from functools import partial
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from accelerate.hooks import remove_hook_from_module
from torch import Tensor

import ditmesh
from ditmesh import ParallelismConfig
from tests.ranks import Ranks
from tests.transformers import SHAPES, build, forward, relative_error


def offloaded(name: str, layout: str, order: str, kind: str) -> list[Tensor]:
    """What an offloaded model makes, twice, and after both are taken back."""
    model, inputs = build(name, SHAPES["odd"], torch.float32)
    config = ParallelismConfig.parse(layout)
    steps = [
        lambda: ditmesh.enable_cache(model, parallelism_config=config),
        lambda: (cpu_offload if kind == "sequential" else cpu_offload_with_hook)(model, torch.device("cpu")),
    ]
    for step in steps if order == "after" else reversed(steps):
        step()
    made = [forward(model, inputs), forward(model, inputs)]
    remove_hook_from_module(model, recurse=True)
    ditmesh.disable_cache(model)
    return [*made, forward(model, inputs)]


@pytest.mark.parametrize(
    ("name", "layout", "order", "kind"),
    [
        ("flux", "tp2", "before", "model"), ("flux", "ulysses2.tp2", "after", "model"),
        ("wan", "ring2", "before", "model"), ("wan", "tp2", "after", "model"),
        ("flux", "ulysses2", "before", "sequential"), ("wan", "ring2", "after", "sequential"),
        ("flux", "tp2", "after", "sequential"), ("wan", "tp2", "after", "sequential"),
    ],
)  # fmt: skip
def test_offloaded_ranks_equal_one_process(ranks: Ranks, name: str, layout: str, order: str, kind: str) -> None:
    with torch.no_grad():
        want = forward(*build(name, SHAPES["odd"], torch.float32))
    for made in ranks.run(offloaded, ParallelismConfig.parse(layout).world_size, name, layout, order, kind):
        assert max(relative_error(got, want) for got in made) <= 1e-5


def refused(order: str) -> tuple[str, float]:
    """The error that weights meet which are nowhere, and how far the model is from itself after it."""
    built, inputs = build("flux", SHAPES["odd"], torch.float32)
    model: Any = built
    want = forward(model, inputs)
    if order == "after":
        ditmesh.enable_cache(model, parallelism_config=ParallelismConfig(tp_size=2))
    cpu_offload(model, torch.device("cpu"))
    config = ParallelismConfig(tp_size=2)
    again = ditmesh.disable_cache if order == "after" else partial(ditmesh.enable_cache, parallelism_config=config)
    with pytest.raises(ValueError, match=r".") as error:
        again(model)
    deviation = relative_error(forward(model, inputs), want)
    if order == "after":
        remove_hook_from_module(model, recurse=True)
        ditmesh.disable_cache(model)
    return str(error.value), max(deviation, relative_error(forward(model, inputs), want))


@pytest.mark.parametrize("order", ["before", "after"])
def test_shards_of_weights_that_are_nowhere_are_refused(ranks: Ranks, order: str) -> None:
    for error, deviation in ranks.run(refused, 2, order):
        assert "has no values here" in error
        assert "enable_sequential_cpu_offload" in error
        assert deviation <= 1e-5
