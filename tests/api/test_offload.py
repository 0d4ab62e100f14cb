"""Offloading by diffusers and accelerate, before or after enable_cache: as in one process, and put on again when undone.

Weights that are offloaded to the disk are NaN here until they are read, as they are on the wrong device elsewhere.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, cpu_offload_with_hook, disk_offload
from torch import Tensor, nn

import ditmesh
from ditmesh import DBCacheConfig, ParallelismConfig
from tests.ranks import Ranks
from tests.transformers import SHAPES, build, forward, relative_error

CPU = torch.device("cpu")


@contextmanager
def nan_in_new_memory() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def groups(model: Any, kind: str, count: int, folder: Path) -> None:
    model.enable_group_offload(CPU, CPU, kind, count, offload_to_disk_path=str(folder))


KINDS: dict[str, Callable[[Any, Path], Any]] = {
    "model": lambda model, _: cpu_offload_with_hook(model, CPU),
    "layers": lambda model, _: cpu_offload(model, CPU),
    "blocks": lambda model, folder: groups(model, "block_level", 1, folder),
    "pairs of blocks": lambda model, folder: groups(model, "block_level", 2, folder),
    "leaves": lambda model, folder: groups(model, "leaf_level", 1, folder),
}
WAYS: dict[str, Any] = {
    "tp2": {"parallelism_config": ParallelismConfig(tp_size=2)},
    "ring2": {"parallelism_config": ParallelismConfig(ring_size=2)},
    "pp2": {"parallelism_config": ParallelismConfig(pp_size=2, num_pipeline_patch=1)},
    "ulysses2, cached": {
        "parallelism_config": ParallelismConfig(ulysses_size=2),
        "cache_config": DBCacheConfig(1, 1, residual_diff_threshold=1.0, max_warmup_steps=2),
    },
}


def offloaded(name: str, way: str, order: str, kind: str, folder: Path) -> list[Tensor]:
    """What an offloaded model makes, three times, and once more after the layout is taken back."""
    model, inputs = build(name, SHAPES["odd"], torch.float32)
    steps = [
        lambda: ditmesh.enable_cache(model, **WAYS[way]),
        lambda: KINDS[kind](model, folder / f"{kind} {order}"),
    ]
    for step in steps if order == "after" else reversed(steps):
        step()
    made = [forward(model, inputs) + 0 for _ in range(3)]
    ditmesh.disable_cache(model)
    return [*made, forward(model, inputs)]


def walk(name: str, way: str, want: Tensor, folder: Path) -> list[str]:
    wrong = []
    with nan_in_new_memory():
        for kind in KINDS:
            for order in ("before", "after"):
                made = offloaded(name, way, order, kind, folder)
                errors = [relative_error(got, want) for got in made]
                wrong += [] if max(errors) <= 1e-5 else [f"{kind}, {order}: {errors}"]
    return wrong


@pytest.mark.parametrize(
    ("name", "way"), [("flux", "tp2"), ("wan", "tp2"), ("wan", "ring2"), ("flux", "pp2"), ("flux", "ulysses2, cached")]
)
def test_offloaded_ranks_equal_one_process(ranks: Ranks, tmp_path: Path, name: str, way: str) -> None:
    with torch.no_grad():
        want = forward(*build(name, SHAPES["odd"], torch.float32))
    for wrong in ranks.run(walk, 2, name, way, want, tmp_path):
        assert wrong == []
