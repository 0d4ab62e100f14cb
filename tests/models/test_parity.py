"""Every sheet on every layout equals one process."""

from functools import cache

import pytest
import torch
from torch import Tensor

from ditmesh import ParallelismConfig
from ditmesh.models import SPECS
from tests.cases import CASES, float32_inside, masked, variants
from tests.ranks import Ranks
from tests.transformers import SHAPES, build, parallel, relative_error, serial

LAYOUTS = [
    "tp2", "ulysses2", "ring2", "ring3", "ulysses3", "tp4", "ulysses4", "ulysses2.tp2", "ring2.tp2", "ring2.ulysses2",
    "ring2.ulysses2.tp2",
]  # fmt: skip
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
# Every layout and shape on these; every strategy and the hybrids on all the others.
THOROUGH = ("flux", "flux2", "qwen_image", "wan")
SPREAD = [
    ("tp2", "odd", torch.float32), ("ulysses3", "odd", torch.float32), ("ring3", "odd", torch.float64),
    ("ring2.ulysses2", "short", torch.float32), ("ulysses2.tp2", "batch2", torch.float32),
    ("ring2.ulysses2.tp2", "even", torch.float64),
    ("ulysses2", "masked", torch.float32), ("ring3", "masked", torch.float32), ("tp2", "masked", torch.float32),
    ("ring2.ulysses2", "masked", torch.float64),
]  # fmt: skip


def shapes_of(name: str) -> list[str]:
    return [shape for shape in SHAPES if shape != "masked" or masked(name)]


@cache
def one_process(name: str, shape: str, dtype: torch.dtype) -> Tensor:
    with torch.no_grad():
        return serial(name, SHAPES[shape], dtype)


def check(ranks: Ranks, name: str, layout: str, shape: str, dtype: torch.dtype) -> None:
    dtype = torch.float32 if float32_inside(name) else dtype
    want = one_process(name, shape, dtype)
    assert want.isfinite().all()
    assert want.std() > 1e-3
    for got in ranks.run(parallel, ParallelismConfig.parse(layout).world_size, name, layout, SHAPES[shape], dtype):
        assert relative_error(got, want) <= TOLERANCE[dtype]


def test_every_sheet_has_a_case() -> None:
    assert {type(build(name, SHAPES["odd"], torch.float32)[0]).__name__ for name in CASES} == set(SPECS)


@pytest.mark.matrix
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("name", "shape"), [(name, shape) for name in THOROUGH for shape in shapes_of(name)])
def test_parallel_equals_serial(ranks: Ranks, name: str, shape: str, layout: str) -> None:
    check(ranks, name, layout, shape, torch.float64)
    if shape in ("odd", "masked"):
        check(ranks, name, layout, shape, torch.float32)


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("name", "layout", "shape", "dtype"),
    [(name, *how) for name in CASES if name not in THOROUGH for how in SPREAD if how[1] in shapes_of(name)],
)
def test_every_sheet_equals_serial(ranks: Ranks, name: str, layout: str, shape: str, dtype: torch.dtype) -> None:
    check(ranks, name, layout, shape, dtype)


# Weights and sequences are cut for each; the next variant has the other two.
IN_TURN = [(("tp2", "odd"), ("ring3", "odd")), (("ulysses2", "batch2"), ("ring2.ulysses2.tp2", "odd"))]
VARIANTS = [f"{name}:{variant}" for name in CASES for variant in variants(name)]


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("name", "layout", "shape"), [(name, *how) for i, name in enumerate(VARIANTS) for how in IN_TURN[i % 2]]
)
def test_variants_equal_serial(ranks: Ranks, name: str, layout: str, shape: str) -> None:
    check(ranks, name, layout, shape, torch.float32)
