"""Every autoencoder on any number of ranks equals one process, for any number of rows."""

import pytest
import torch

from tests.ranks import Ranks
from tests.vaes import CASES, build, parallel, work

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def sizes_of(name, batch=1):
    case = CASES[name]
    odd = 5 * case.scale + (case.scale // 2 + 1 if case.odd_rows else 0)
    encoded = [("encode", rows, batch) for rows in (4 * case.scale, odd, case.fewest * case.scale)]
    return encoded + [("decode", rows, batch) for rows in (4, 7, case.fewest)]


def check(ranks: Ranks, name, world, dtype, sizes):
    with torch.no_grad():
        wanted = work(build(name, dtype), name, sizes, dtype)
    for made in ranks.run(parallel, world, name, sizes, dtype):
        for size, got, want in zip(sizes, made, wanted, strict=True):
            assert want.isfinite().all()
            assert want.std() > 1e-3
            assert got.shape == want.shape
            error = ((got - want).abs().max() / want.abs().max()).item()
            assert error <= TOLERANCE[dtype], (size, error)


@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("name", CASES)
def test_ranks_equal_one_process(ranks, name, world):
    check(ranks, name, world, torch.float32, sizes_of(name))
    if world == 3 and CASES[name].float64:
        check(ranks, name, world, torch.float64, sizes_of(name))
