"""Every sheet on every layout equals one process."""

from functools import cache

import pytest
import torch
from torch import Tensor

from ditmesh import ParallelismConfig
from ditmesh.models import SPECS
from tests.ranks import Ranks
from tests.transformers import FAMILIES, SHAPES, VARIANTS, parallel, relative_error, serial

LAYOUTS = [
    "tp2", "ulysses2", "ring2", "ring3", "ulysses3", "tp4", "ulysses4", "ulysses2.tp2", "ring2.tp2", "ring2.ulysses2",
    "ring2.ulysses2.tp2",
]  # fmt: skip
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def shapes_of(name: str) -> list[str]:
    return [shape for shape in SHAPES if shape != "masked" or name.startswith(("Qwen", "qwen"))]


@cache
def one_process(name: str, shape: str, dtype: torch.dtype) -> Tensor:
    with torch.no_grad():
        return serial(name, SHAPES[shape], dtype)


def check(ranks: Ranks, name: str, layout: str, shape: str, dtype: torch.dtype) -> None:
    want = one_process(name, shape, dtype)
    assert want.isfinite().all()
    assert want.std() > 1e-3
    for got in ranks.run(parallel, ParallelismConfig.parse(layout).world_size, name, layout, SHAPES[shape], dtype):
        assert relative_error(got, want) <= TOLERANCE[dtype]


def test_every_sheet_has_a_case() -> None:
    assert set(FAMILIES) == set(SPECS)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("name", "shape"), [(name, shape) for name in FAMILIES for shape in shapes_of(name)])
def test_parallel_equals_serial(ranks: Ranks, name: str, shape: str, layout: str, dtype: torch.dtype) -> None:
    check(ranks, name, layout, shape, dtype)


@pytest.mark.parametrize("layout", ["tp2", "ulysses2", "ring3", "ring2.ulysses2", "ring2.ulysses2.tp2"])
@pytest.mark.parametrize(("name", "shape"), [(name, shape) for name in VARIANTS for shape in ("odd", "batch2")])
def test_variants_equal_serial(ranks: Ranks, name: str, shape: str, layout: str) -> None:
    check(ranks, name, layout, shape, torch.float32)
