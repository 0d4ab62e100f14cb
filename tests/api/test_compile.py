"""Compiled blocks make what plain ones make in one process, and are compiled once for all steps."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch._inductor import config as inductor

import ditmesh
from ditmesh import ParallelismConfig
from tests.ranks import Ranks
from tests.transformers import SHAPES, build, forward, relative_error

pytestmark = pytest.mark.slow


def steps(name: str, layout: str | None, order: str = "after", **options: Any) -> list[Tensor]:
    """What a model makes of three steps; only the first may compile."""
    torch.compiler.reset()
    inductor.compile_threads = 1  # a rank of the pool may have no workers of its own
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
        time = "timestep" if "timestep" in inputs else "t"
        call = inputs | {time: inputs[time] * (1 - 0.2 * step)}
        with torch.compiler.set_stance("fail_on_recompile" if step else "default"):
            made.append(forward(model, call))
    assert not layout or counters["stats"]["unique_graphs"] > 0
    return made


def check(ranks: Ranks, name: str, layout: str, *options: str, backend: str) -> None:
    with torch.no_grad():
        want = steps(name, None)
    assert relative_error(want[0], want[1]) > 1e-3
    for made in ranks.run(steps, ParallelismConfig.parse(layout).world_size, name, layout, *options, backend=backend):
        assert max(map(relative_error, made, want)) <= 1e-5


@pytest.mark.parametrize(
    ("name", "layout", "order"),
    [
        ("flux", "ulysses2", "after"), ("wan", "tp2", "before"),
        ("qwen_image", "ring2", "before"), ("z_image", "ulysses2", "after"), ("qwen_image", "ulysses2.tp2", "after"),
        ("wan", "ring2.ulysses2", "after"),
    ],
)  # fmt: skip
def test_one_compilation_serves_all_steps(ranks: Ranks, name: str, layout: str, order: str) -> None:
    check(ranks, name, layout, order, backend="eager")


@pytest.mark.parametrize(("name", "layout"), [("flux", "tp2")])
def test_generated_code_equals_one_process(ranks: Ranks, name: str, layout: str) -> None:
    check(ranks, name, layout, backend="inductor")


def in_stages(name: str, order: str) -> tuple[list[Tensor], list[int]]:
    """What a stage makes of three steps, and how many graphs there were after each."""
    torch.compiler.reset()
    counters.clear()
    model, inputs = build(name, SHAPES["odd"], torch.float32)
    model_: Any = model
    if order == "before":
        model_.compile_repeated_blocks(backend="eager")
    ditmesh.enable_cache(model, parallelism_config=ParallelismConfig(pp_size=2, num_pipeline_patch=1))
    if order == "after":
        model_.compile_repeated_blocks(backend="eager")
    made, graphs = [], []
    for _ in range(3):
        made.append(forward(model, inputs))
        graphs.append(counters["stats"]["unique_graphs"])
    return made, graphs


@pytest.mark.parametrize(("name", "order"), [("flux", "after"), ("wan", "before")])
def test_stages_compile_their_own_blocks_once(ranks: Ranks, name: str, order: str) -> None:
    with torch.no_grad():
        want = forward(*build(name, SHAPES["odd"], torch.float32))
    for made, graphs in ranks.run(in_stages, 2, name, order):
        assert max(relative_error(got, want) for got in made) <= 1e-5
        assert 0 < graphs[0] == graphs[2]
