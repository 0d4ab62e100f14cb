"""Compiled blocks make what plain ones make in one process, and are compiled once for all steps."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

import ditmesh
from ditmesh import ParallelismConfig
from tests.ranks import Ranks
from tests.transformers import SHAPES, build, forward, relative_error


def steps(name: str, layout: str | None, order: str = "after", **options: Any) -> list[Tensor]:
    """What a model makes of three steps; only the first may compile."""
    torch.compiler.reset()
    model, inputs = build(name, SHAPES["odd"], torch.float32)
    model_: Any = model
    config = ParallelismConfig.parse(layout or "single")
    if layout and order == "before":
        model_.compile_repeated_blocks(**options)
    if layout:
        ditmesh.enable_cache(model, parallelism_config=config)
    if layout and order == "after":
        model_.compile_repeated_blocks(**options)
    if layout and order == "whole":
        model.compile(**options)
    made = []
    for step in range(3):
        call = inputs | {"timestep": inputs["timestep"] * (1 - 0.2 * step)}
        with torch.compiler.set_stance("fail_on_recompile" if step else "default"):
            made.append(forward(model, call))
    assert not layout or counters["stats"]["unique_graphs"] > 0
    return made


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("flux", "tp2"), ("flux", "ulysses2"), ("wan", "ring2"), ("qwen_image", "ulysses2.tp2"),
        ("z_image", "ring2.ulysses2"), ("flux", "ring2"), ("wan", "tp2"), ("qwen_image", "ring2"),
        ("z_image", "ulysses2"),
    ],
)  # fmt: skip
def test_compiled_ranks_equal_one_process(ranks: Ranks, name: str, layout: str) -> None:
    with torch.no_grad():
        want = steps(name, None)
    assert relative_error(want[0], want[1]) > 1e-3
    for made in ranks.run(steps, ParallelismConfig.parse(layout).world_size, name, layout):
        assert max(map(relative_error, made, want)) <= 1e-5
