"""Offloading by diffusers and accelerate, before or after enable_cache: as in one process, and on again when undone.

Weights that are offloaded to the disk are NaN here until they are read, as they are on the wrong device elsewhere.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from accelerate import cpu_offload, cpu_offload_with_hook, disk_offload
from diffusers import DiffusionPipeline
from diffusers.hooks import apply_group_offloading
from torch import Tensor, nn

import ditmesh
from ditmesh import DBCacheConfig, ParallelismConfig
from tests.ranks import Ranks
from tests.tiny import call_kwargs, tiny_path
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
    "leaves, by the function": lambda model, folder: apply_group_offloading(
        model, CPU, CPU, "leaf_level", offload_to_disk_path=str(folder)
    ),
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
        # Before, both ranks have whole weights, and neither may read what the other still writes.
        lambda: KINDS[kind](model, folder / f"{kind} {dist.get_rank() if order == 'before' else 'both'}"),
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


ENCODERS = ["text_encoder", "text_encoder_2"]
PIPES: dict[str, Callable[[Any, Path], Any]] = {
    # What enable_sequential_cpu_offload does, which wants an accelerator.
    "layers": lambda pipe, _: [
        cpu_offload(module, CPU) for module in pipe.components.values() if isinstance(module, nn.Module)
    ],
    "leaves": lambda pipe, _: pipe.enable_group_offload(CPU, CPU, "leaf_level"),
    # diffusers loses tied weights, as T5 has them, on the disk.
    "disk": lambda pipe, folder: pipe.enable_group_offload(
        CPU, CPU, "leaf_level", offload_to_disk_path=str(folder), exclude_modules=ENCODERS
    ),
}


def drawn(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    draw = torch.Generator().manual_seed(0)
    made = torch.from_numpy(np.asarray(pipe(**call_kwargs("flux"), generator=draw, output_type="np").images))
    encoded = pipe.vae.encode(made.permute(0, 3, 1, 2)).latent_dist.mean
    return made, encoded


def pipelines(path: Path, folder: Path) -> list[list[Tensor]]:
    config = ParallelismConfig(tp_size=2, parallel_kwargs={"extra_parallel_modules": [*ENCODERS, "vae"]})
    made = []
    for kind, offload in PIPES.items():
        for order in ("before", "after"):
            pipe: Any = DiffusionPipeline.from_pretrained(path)
            with nan_in_new_memory():
                if order == "before":
                    offload(pipe, folder / f"{dist.get_rank()} {kind}")
                ditmesh.enable_cache(pipe, parallelism_config=config)
                if order == "after":
                    offload(pipe, folder / kind)
                made += [drawn(pipe)]
                ditmesh.disable_cache(pipe)
                made += [drawn(pipe)]
    return made


def test_offloaded_pipelines_equal_one_process(ranks: Ranks, tmp_path: Path) -> None:
    path = tiny_path("flux", tmp_path)
    with torch.no_grad():
        want = drawn(DiffusionPipeline.from_pretrained(path))
    for made in ranks.run(pipelines, 2, path, tmp_path):
        for got in made:
            assert all(relative_error(x, y) <= 2e-5 for x, y in zip(got, want, strict=True))


def refused(folder: Path) -> str:
    model, _ = build("flux", SHAPES["odd"], torch.float32)
    disk_offload(model, folder / str(dist.get_rank()), CPU)
    with pytest.raises(ValueError, match=r"\w") as error:
        ditmesh.enable_cache(model, parallelism_config=ParallelismConfig(tp_size=2))
    return str(error.value)


def test_weights_that_are_nowhere_are_refused(ranks: Ranks, tmp_path: Path) -> None:
    for error in ranks.run(refused, 2, tmp_path):
        assert "has no values here" in error
