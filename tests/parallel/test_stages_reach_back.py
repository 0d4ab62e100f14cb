"""Stages whose blocks take what earlier ones returned, take turns, or fill caches, make what one process makes."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ditmesh import ParallelismConfig
from ditmesh.checks import check_stages
from ditmesh.models import SPECS
from ditmesh.parallel.pipefusion.stage_links import leaps
from tests.cases import float32_inside
from tests.cases.common import HEAD_DIM, HEADS
from tests.parallel.pipefusion import ODD, pictures, whole
from tests.parallel.reaching import STEPS, drawn, mirrored, sent_by_a_step, stock, written
from tests.ranks import Ranks
from tests.tiny import call_kwargs, tiny_path
from tests.transformers import relative_error, serial

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("ends", "sent"),
    [
        ([4, 8], [(0, 0, 1), (1, 0, 1), (2, 0, 1)]),
        ([3, 8], [(0, 0, 1), (1, 0, 1)]),  # 2 is the last block before the stage: its output is the streams
        ([2, 4, 6, 8], [(0, 0, 3), (1, 0, 3), (2, 1, 2)]),
        ([1, 7, 8], [(0, 0, 2)]),
        ([8], []),
    ],
)
def test_what_goes_past_the_next_stage(ends: list[int], sent: list[tuple[int, int, int]]) -> None:
    stages = [range(start, end) for start, end in zip([0, *ends], ends, strict=False)]
    back = [(made, block) for block in range(8) if (made := mirrored(block, 8)) is not None]
    assert leaps(stages, back) == sent
    assert leaps(stages, [*back, *back]) == sent  # what two blocks of a stage take is sent once


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("hunyuan_dit:deep", "pp2"), ("hunyuan_dit:deep_controlnet", "pp2"), ("hunyuan_dit:deep", "pp3"),
        ("hunyuan_dit:deep_controlnet", "pp4"), ("hunyuan_dit:deep", "pp2.tp2"), ("hunyuan_dit:deep", "pp2.ulysses2"),
        ("hunyuan_dit:deep_controlnet", "pp2.ring2"), ("latte", "pp4"), ("latte:one_frame", "pp3"),
        ("latte", "pp2.tp2"), ("latte", "pp2.ulysses2"), ("anyflow_far:cached", "pp2"), ("anyflow_far:context", "pp2"),
        ("anyflow_far:cached", "pp2.tp2"), ("wan_animate2:cached", "pp2"), ("wan_animate2:cached", "pp2.ulysses2"),
    ],
)  # fmt: skip
def test_stages_equal_one_process(ranks: Ranks, name: str, layout: str) -> None:
    dtype = torch.float32 if float32_inside(name) else torch.float64
    with torch.no_grad():
        want = serial(name, ODD, dtype)
    for got, _ in ranks.run(whole, ParallelismConfig.parse(layout).world_size, name, layout, ODD, dtype):
        assert relative_error(got, want) <= (1e-5 if dtype == torch.float32 else 1e-10)


@pytest.mark.parametrize(("layout", "gives", "takes"), [("pp2", [3, 0], [0, 3]), ("pp4", [2, 1, 0, 0], [0, 0, 1, 2])])
def test_a_skip_is_sent_once_to_the_stage_that_takes_it(
    ranks: Ranks, layout: str, gives: list[int], takes: list[int]
) -> None:
    """In as many messages as there are patches, and as many bytes together as a stream."""
    batch, (height, width), _, _ = ODD
    patches, last = 3, len(gives) - 1
    outcomes = ranks.run(sent_by_a_step, len(gives), "hunyuan_dit:deep", layout, patches)
    for stage, (sent, size, taken) in enumerate(outcomes):
        given = gives[stage] + (stage < last)
        assert (sent, taken) == (patches * given, patches * (takes[stage] + (stage > 0)))
        assert size == given * batch * height * width * HEADS * HEAD_DIM * 8


@cache
def oracle(patches: int, warmup: int, seed: int = 0) -> Tensor:
    with torch.no_grad():
        return written(patches, warmup, seed)


@pytest.mark.parametrize(
    "layout", ["pp2", "pp3", "pp4", "pp5", "pp2.tp2", "pp3.ulysses2", "pp2.ring2", "pp2.ulysses2.tp2"]
)
def test_overlapping_steps_equal_the_oracle(ranks: Ranks, layout: str) -> None:
    """With something added to what a block takes; all stages wait once in the warm-up, and at the end."""
    for [(got, waits)] in ranks.run(drawn, ParallelismConfig.parse(layout).world_size, layout, 3, 1):
        assert relative_error(got, oracle(3, 1)) <= 1e-10
        assert waits == 1 + 3


@pytest.mark.parametrize(("patches", "warmup"), [(1, 1), (2, 2), (5, 1), (3, 9)])
def test_two_requests_in_a_row_are_two_fresh_ones(ranks: Ranks, patches: int, warmup: int) -> None:
    for both in ranks.run(drawn, 3, "pp3", patches, warmup, (0, 1)):
        for seed, (got, _) in enumerate(both):
            assert relative_error(got, oracle(patches, warmup, seed)) <= 1e-10


def test_what_is_taken_before_it_is_there_is_no_number(ranks: Ranks) -> None:
    for [(got, _)] in ranks.run(drawn, 2, "pp2", 1, 1, early=True):
        assert got.isnan().any()


@pytest.mark.parametrize("layout", ["pp2", "pp3", "cfg2.pp2"])
def test_a_stock_pipeline_with_skips(ranks: Ranks, layout: str) -> None:
    world = ParallelismConfig.parse(layout).world_size
    for patches, warmup in ((3, 1), (2, STEPS), (1, 1)):
        with torch.no_grad():
            want, again = stock("", patches, warmup)
        assert torch.equal(want, again)
        for both in ranks.run(stock, world, layout, patches, warmup):
            assert max(relative_error(got, want) for got in both) <= 1e-5


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_stock_pipeline_whose_blocks_fill_caches(ranks: Ranks, tmp_path: Path) -> None:
    path, call = tiny_path("anyflow_far", tmp_path), call_kwargs("anyflow_far")
    with torch.no_grad():
        want, _ = pictures(path, call, None, 1)
    for both in ranks.run(pictures, 2, path, call, "pp2", 1, num_pipeline_patch=1):
        assert all(np.abs(got - want).max() <= 2e-5 for got in both)


def test_blocks_that_take_what_may_have_changed_are_refused() -> None:
    spec = SPECS["HunyuanDiT2DModel"]
    changing: Any = replace(spec, blocks=(replace(spec.blocks[0], between="something is added"),))
    with pytest.raises(ValueError, match=r"may have changed since \(something is added\)"):
        check_stages(ParallelismConfig(pp_size=2, num_pipeline_patch=1), changing, 8, cached=False, in_pipeline=True)
