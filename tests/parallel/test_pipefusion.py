"""PipeFusion: stages that run whole are one process; patches are the written algorithm, run by one process."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import ditmesh
from ditmesh import DBCacheConfig, ParallelismConfig
from ditmesh.models import SPECS
from ditmesh.parallel.pipefusion.patches import patch_of
from ditmesh.parallel.pipefusion.schedule import split_blocks
from ditmesh.runtime.collectives import shard_sizes
from ditmesh.upstream.modules import chain
from tests.cases import CASES, float32_inside, variants
from tests.cases.common import HEAD_DIM, HEADS
from tests.parallel.pipefusion import (
    ODD,
    ORACLES,
    STEPS,
    cost_of_a_step,
    enable_and_disable,
    left_out,
    one_process,
    pictures,
    requests,
    same_step,
    two_branches,
    whole,
)
from tests.ranks import Ranks
from tests.tiny import call_kwargs, tiny_path
from tests.transformers import build, relative_error, serial

NAMES = [variant for name in CASES for variant in (name, *(f"{name}:{variant}" for variant in variants(name)))]


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


@pytest.mark.parametrize("name", CASES)
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
    ("name", "layout"), [("flux", "pp2"), ("dit", "pp2"), ("flux2", "pp3"), ("qwen_image", "pp2.tp2"), ("latte", "pp3")]
)
def test_disable_gives_every_rank_its_weights_back(ranks: Ranks, name: str, layout: str) -> None:
    assert all(ranks.run(enable_and_disable, ParallelismConfig.parse(layout).world_size, name, layout))


# Where a stage's blocks need more than a patch of the sequence.
WHOLE = ("nucleus_moe_image", "wan_animate", "anyflow_far", "wan_animate2")


@pytest.mark.matrix
@pytest.mark.parametrize("name", NAMES)
def test_a_step_after_the_same_step_is_exact_in_patches(ranks: Ranks, name: str) -> None:
    """What is remembered is then what is computed: whatever is out of place, or missing, shows."""
    dtype = torch.float32 if float32_inside(name) else torch.float64
    with torch.no_grad():
        want = serial(name, ODD, dtype)
    is_whole = name.partition(":")[0] in WHOLE
    # A model may add to what it is given, and then warms up once more.
    for outputs in ranks.run(same_step, 2, name, ODD, dtype, 3 if is_whole else 2, num_pipeline_patch=3):
        if is_whole:
            assert "in the midst of its blocks" in outputs
        elif name == "latte:still":
            assert "leaves out block" in outputs
        else:
            assert max(relative_error(got, want) for got in outputs) <= (1e-5 if dtype == torch.float32 else 1e-6)


@pytest.mark.parametrize("name", WHOLE)
def test_a_warm_up_as_long_as_the_request_needs_no_patches(ranks: Ranks, name: str) -> None:
    dtype = torch.float32 if float32_inside(name) else torch.float64
    with torch.no_grad():
        want = serial(name, ODD, dtype)
    for outputs in ranks.run(same_step, 2, name, ODD, dtype, 2, num_pipeline_patch=3, warmup_steps=2):
        assert max(relative_error(got, want) for got in outputs) <= (1e-5 if dtype == torch.float32 else 1e-10)


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
    assert min(errors[1:]) > 1e-6


@pytest.mark.matrix
@pytest.mark.parametrize("layout", ["pp2", "pp3", "pp4"])
@pytest.mark.parametrize("name", ORACLES)
def test_patches_equal_the_oracle(ranks: Ranks, name: str, layout: str) -> None:
    check(ranks, name, layout, EVERY if (name, layout) == ("flux", "pp3") else [(2, 1), (5, 2), (4, STEPS), (1, 1)])


@pytest.mark.parametrize("name", ["flux", "wan"])
def test_patches_beside_tensor_parallelism_equal_the_oracle(ranks: Ranks, name: str) -> None:
    check(ranks, name, "pp2.tp2", [(2, 1), (3, 1)])


def test_two_requests_in_a_row_are_two_fresh_ones(ranks: Ranks) -> None:
    for [both] in ranks.run(requests, 2, "flux", "pp2", [(3, 1)], (0, 1)):
        for seed, got in enumerate(both):
            want = oracle("flux", 3, 1, seed)
            assert max(relative_error(a, b) for a, b in zip(got, want, strict=True)) <= 1e-10


@pytest.mark.parametrize("layout", ["pp2", "cfg2.pp2"])
def test_each_branch_of_guidance_remembers_its_own(ranks: Ranks, layout: str) -> None:
    for branches in ranks.run(two_branches, ParallelismConfig.parse(layout).world_size, layout, 3):
        for seed, got in enumerate(branches):
            want = oracle("flux", 3, 1, seed)
            assert max(relative_error(a, b) for a, b in zip(got, want, strict=True)) <= 1e-10


@pytest.mark.parametrize("patches", [2, 4])
def test_a_patched_step_computes_and_sends_each_token_once(ranks: Ranks, patches: int) -> None:
    """But for the one token that stands in for the text in every patch but the first."""
    batch, (height, width), text, _ = ODD
    image, stand_ins = height * width, patches - 1
    sending, last = ranks.run(cost_of_a_step, 2, "pp2", patches)
    for _, _, tokens in (sending, last):
        assert [sum(x) for x in zip(*tokens, strict=True)] == [image, text + stand_ins]
    # One message a patch for the image, one for the text.
    assert sending[0] == {"send": 2 * patches, "broadcast_": 1}
    assert last[0] == {"recv_": 2 * patches, "broadcast_": 1}
    assert sending[1]["send"] == batch * (image + text + stand_ins) * HEADS * HEAD_DIM * 8


@pytest.mark.parametrize("axis", ["ring", "ulysses"])
def test_a_patched_step_gathers_each_token_once(ranks: Ranks, axis: str) -> None:
    """The ring gets keys and values; Ulysses sends half of the heads of all three, and takes the output back."""
    batch, (height, width), text, _ = ODD
    patches, channels = 3, 4
    image = [shard_sizes(len(patch_of(height * width, patches, m)), 2) for m in range(patches)]
    for rank, (_, sent, _) in enumerate(ranks.run(cost_of_a_step, 4, f"pp2.{axis}2", patches)):
        layers = 1 if rank < 2 else 3  # the first of two double blocks costs as much as the rest
        own_image = sum(sizes[rank % 2] for sizes in image)
        own = own_image + shard_sizes(text, 2)[rank % 2]
        other = height * width + text - own
        layer = (2 * own if axis == "ring" else (3 * own + other) // 2) * HEADS * HEAD_DIM
        assert sent["alltoall_base_"] == batch * 8 * (layers * layer + channels * own_image)


def test_a_call_that_leaves_out_the_edge_of_a_stage_is_refused(ranks: Ranks) -> None:
    for message in ranks.run(left_out, 2):
        assert "leaves out block" in message


@pytest.mark.parametrize(
    ("name", "parallelism", "kwargs", "message"),
    [
        ("flux", {"pp_size": 5, "num_pipeline_patch": 1}, {}, "more than FLUX.1's 4 blocks"),
        ("flux", {"pp_size": 2}, {}, "a transformer alone cannot tell where"),
        ("flux", {"pp_size": 2, "num_pipeline_patch": 1}, {"cache_config": DBCacheConfig()}, "with a cache"),
    ],
)
def test_what_stages_cannot_run_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, parallelism: dict, kwargs: dict, message: str
) -> None:
    layout = ParallelismConfig(**parallelism)
    monkeypatch.setenv("WORLD_SIZE", str(layout.world_size))
    model, _ = build(name, ODD, torch.float32)
    with pytest.raises(ValueError, match=message):
        ditmesh.enable_cache(model, parallelism_config=layout, **kwargs)


@pytest.mark.parametrize(
    "given",
    [
        {"num_pipeline_patch": 2},
        {"warmup_steps": 2},
        {"pp_size": 2, "warmup_steps": 0},
        {"pp_size": 2, "num_pipeline_patch": 0},
    ],
)
def test_patches_need_stages_and_a_warm_up(given: dict) -> None:
    with pytest.raises(ValueError, match=r"pp_size is 1|1 or more"):
        ParallelismConfig(**given)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "layout"), [("flux", "pp2.ulysses2"), ("sd3", "pp2.ring2"), ("qwen_image", "cfg2.pp2")]
)
def test_a_stock_pipeline_runs_in_stages(ranks: Ranks, tmp_path: Path, name: str, layout: str) -> None:
    """Exact while it warms up; then every rank draws the same picture, near the exact one, every time."""
    path, call, steps = tiny_path(name, tmp_path), call_kwargs(name), 3
    world = ParallelismConfig.parse(layout).world_size
    with torch.no_grad():
        want, _ = pictures(path, call, None, steps)
    for got, _ in ranks.run(pictures, world, path, call, layout, steps, warmup_steps=steps):
        assert np.abs(got - want).max() <= 2e-5
    drawn = [picture for both in ranks.run(pictures, world, path, call, layout, steps) for picture in both]
    assert all(np.array_equal(picture, drawn[0]) for picture in drawn)
    assert 1e-6 < np.abs(drawn[0] - want).mean() < want.std()
