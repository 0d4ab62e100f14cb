"""PipeFusion: stages that run whole are one process; patches are the written algorithm, run by one process."""

from functools import cache

import pytest
import torch
from torch import Tensor

from ditmesh import ParallelismConfig
from ditmesh.attention.patches import patch_of
from ditmesh.models import SPECS
from ditmesh.modules import chain
from ditmesh.parallel.schedule import split_blocks
from tests.cases import CASES, float32_inside, variants
from tests.pipefusion import ODD, ORACLES, STEPS, enable_and_disable, one_process, requests, same_step_twice, whole
from tests.ranks import Ranks
from tests.transformers import build, relative_error, serial

NAMES = [variant for name in CASES for variant in (name, *(f"{name}:{variant}" for variant in variants(name)))]
# Blocks that take other blocks' outputs, and two lists whose blocks take turns.
REFUSED = ("hunyuan_dit", "latte")
STAGED = [name for name in NAMES if name.partition(":")[0] not in REFUSED]


@pytest.mark.parametrize(
    ("costs", "stages", "split"),
    [
        ([1, 1, 1, 1], 2, [2, 2]),
        ([1, 1, 1, 1, 1], 2, [2, 3]),
        ([3, 3, 1, 1, 1, 1], 3, [1, 1, 4]),
        ([1, 1, 1, 1, 3, 3], 3, [3, 2, 1]),
        ([5, 1, 1], 3, [1, 1, 1]),
        ([1, 1, 5], 3, [1, 1, 1]),
        ([9, 1, 1, 1, 1], 2, [1, 4]),
        ([1, 1, 1, 1, 9], 2, [4, 1]),
        ([7], 1, [1]),
    ],
)
def test_stages_are_balanced_and_never_empty(costs: list[int], stages: int, split: list[int]) -> None:
    got = split_blocks(costs, stages)
    assert [len(blocks) for blocks in got] == split
    assert [block for blocks in got for block in blocks] == list(range(len(costs)))


def test_patches_are_as_even_as_can_be() -> None:
    assert [list(patch_of(10, 4, m)) for m in range(4)] == [[0, 1, 2], [3, 4, 5], [6, 7], [8, 9]]
    assert [list(patch_of(2, 3, m)) for m in range(3)] == [[0], [1], []]


@pytest.mark.parametrize("name", STAGED)
def test_stages_equal_one_process(ranks: Ranks, name: str) -> None:
    dtype = torch.float32 if float32_inside(name) else torch.float64
    model, _ = build(name, ODD, dtype)
    links = chain(model, SPECS[type(model).__name__])
    blocks = {id(x): x.numel() for link in links for x in link.block.parameters()}
    with torch.no_grad():
        want = serial(name, ODD, dtype)
    outcomes = ranks.run(whole, 2, name, "pp2", ODD, dtype)
    for got, _ in outcomes:
        assert relative_error(got, want) <= (1e-5 if dtype == torch.float32 else 1e-10)
    outside = sum(x.numel() for x in model.parameters()) - sum(blocks.values())
    if name.partition(":")[0] != "dit":  # whose first block lends a module
        assert sum(held for _, held in outcomes) == 2 * outside + sum(blocks.values())


@pytest.mark.parametrize(
    ("name", "layout"),
    [("flux", "pp4"), ("flux2", "pp3"), ("sd3", "pp3"), ("flux", "pp2.tp2"),
     ("flux2", "pp2.ulysses2"), ("wan", "pp2.ring2")],
)  # fmt: skip
def test_stages_stand_beside_other_axes(ranks: Ranks, name: str, layout: str) -> None:
    with torch.no_grad():
        want = serial(name, ODD, torch.float64)
    for got, _ in ranks.run(whole, ParallelismConfig.parse(layout).world_size, name, layout, ODD, torch.float64):
        assert relative_error(got, want) <= 1e-10


@pytest.mark.parametrize(
    ("name", "layout"), [("flux", "pp2"), ("dit", "pp2"), ("flux2", "pp3"), ("qwen_image", "pp2.tp2")]
)
def test_disable_gives_every_rank_its_weights_back(ranks: Ranks, name: str, layout: str) -> None:
    assert all(ranks.run(enable_and_disable, ParallelismConfig.parse(layout).world_size, name, layout))


# Where a stage's blocks need more than a patch of the sequence.
WHOLE = ("anyflow_far", "nucleus_moe_image", "wan_animate", "wan_animate2")


@pytest.mark.parametrize("name", STAGED)
def test_a_step_after_the_same_step_is_exact_in_patches(ranks: Ranks, name: str) -> None:
    """What is remembered is then what is computed: whatever is out of place, or missing, shows."""
    dtype = torch.float32 if float32_inside(name) else torch.float64
    with torch.no_grad():
        want = serial(name, ODD, dtype)
    for outputs in ranks.run(same_step_twice, 2, name, ODD, dtype, 3):
        if name.partition(":")[0] in WHOLE:
            assert "in the midst of its blocks" in outputs
        else:
            assert max(relative_error(got, want) for got in outputs) <= (1e-5 if dtype == torch.float32 else 1e-6)


@cache
def oracle(name: str, patches: int, warmup: int, seed: int = 0) -> list[Tensor]:
    with torch.no_grad():
        return one_process(name, patches, warmup, seed)


def check(ranks: Ranks, name: str, layout: str, settings: list[tuple[int, int]]) -> None:
    outcomes = ranks.run(requests, ParallelismConfig.parse(layout).world_size, name, layout, settings)
    for outcome in outcomes:
        for (patches, warmup), [got] in zip(settings, outcome, strict=True):
            want = oracle(name, patches, warmup)
            assert len(got) == STEPS
            assert max(relative_error(a, b) for a, b in zip(got, want, strict=True)) <= 1e-10, (patches, warmup)


EVERY = [(patches, warmup) for patches in (1, 2, 3, 4, 5) for warmup in (1, 2, STEPS)]


@pytest.mark.parametrize("name", ORACLES)
def test_the_oracle_is_lossy_and_exact_when_nothing_is_cut(name: str) -> None:
    exact = oracle(name, 1, 1)
    assert all(torch.equal(a, b) for a, b in zip(oracle(name, 4, STEPS), exact, strict=True))
    errors = [relative_error(a, b) for a, b in zip(oracle(name, 4, 1), exact, strict=True)]
    assert errors[0] == 0
    assert min(errors[1:]) > 1e-4


@pytest.mark.parametrize("layout", ["pp2", "pp3", "pp4"])
@pytest.mark.parametrize("name", ORACLES)
def test_patches_equal_the_oracle(ranks: Ranks, name: str, layout: str) -> None:
    check(ranks, name, layout, EVERY if name == "flux" else [(2, 1), (5, 2), (4, STEPS), (1, 1)])


@pytest.mark.parametrize("name", ["flux", "wan"])
def test_patches_beside_tensor_parallelism_equal_the_oracle(ranks: Ranks, name: str) -> None:
    check(ranks, name, "pp2.tp2", [(2, 1), (3, 1)])
