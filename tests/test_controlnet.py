"""A ControlNet beside its transformer, parallelized if it is named and whole if not, equals one process."""

from functools import cache

import pytest
import torch
from torch import Tensor

from ditmesh import ParallelismConfig
from ditmesh.models import CONTROLNETS
from tests.controlnets import MAKERS, build, parallel, run
from tests.ranks import Ranks
from tests.transformers import SHAPES, relative_error

F32, F64 = torch.float32, torch.float64
TOLERANCE = {F32: 1e-5, F64: 1e-10}
MASKED = ("qwen_image", "z_image", "hunyuan_dit")
EVERY = [
    ("tp2", "odd", F32), ("ulysses2", "batch2", F32), ("ring2", "odd", F64), ("ulysses3", "odd", F32),
    ("ring2.ulysses2", "short", F32), ("ulysses2.tp2", "batch2", F64), ("ring2.tp2", "odd", F32),
]  # fmt: skip
WITH_MASKS = [("ulysses3", "masked", F32), ("ring2.tp2", "masked", F64)]


@cache
def one_process(name: str, shape: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return run(build(name, SHAPES[shape], dtype))


def check(ranks: Ranks, name: str, layout: str, shape: str, dtype: torch.dtype, named: bool) -> None:
    dtype = F32 if name.startswith("cosmos") else dtype  # it computes in float32 inside
    wants = one_process(name, shape, dtype)
    world = ParallelismConfig.parse(layout).world_size
    for gots in ranks.run(parallel, world, name, layout, SHAPES[shape], dtype, named):
        for got, want in zip(gots, wants, strict=True):
            assert want.isfinite().all()
            assert want.std() > 1e-3
            assert relative_error(got, want) <= TOLERANCE[dtype]


def test_every_sheet_of_a_controlnet_has_a_case() -> None:
    pairs = [build(name, SHAPES["odd"], F32) for name in MAKERS]
    assert {type(pair.controlnet).__name__ for pair in pairs} == set(CONTROLNETS)
    for pair in pairs:
        assert CONTROLNETS[type(pair.controlnet).__name__].controls == type(pair.transformer).__name__


@pytest.mark.parametrize(("layout", "shape", "dtype"), EVERY + WITH_MASKS)
@pytest.mark.parametrize("name", [name for name in MAKERS if ":" not in name])
def test_both_equal_one_process(ranks: Ranks, name: str, layout: str, shape: str, dtype: torch.dtype) -> None:
    if shape != "masked" or name in MASKED:
        check(ranks, name, layout, shape, dtype, named=True)


@pytest.mark.parametrize(
    ("layout", "shape"), [("tp2", "odd"), ("ulysses3", "batch2"), ("ring2.ulysses2", "short"), ("ring2.tp2", "odd")]
)
@pytest.mark.parametrize("name", [name for name in MAKERS if ":" in name])
def test_variants_equal_one_process(ranks: Ranks, name: str, layout: str, shape: str) -> None:
    check(ranks, name, layout, shape, F32, named=True)


@pytest.mark.parametrize(("layout", "dtype"), [("tp2", F32), ("ring2.ulysses2", F32), ("ulysses2.tp2", F64)])
@pytest.mark.parametrize("name", ["flux", "sd3", "z_image", "z_image:2.0", "z_image:2.1"])
def test_a_controlnet_that_is_not_named_runs_whole(ranks: Ranks, name: str, layout: str, dtype: torch.dtype) -> None:
    check(ranks, name, layout, "batch2", dtype, named=False)
