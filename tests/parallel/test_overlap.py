"""Stages that overlap across steps make what the written algorithm makes, whatever a pipeline does beside it."""

import inspect
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from torch import Tensor

import ditmesh
from ditmesh import ParallelismConfig
from tests.cases.common import HEAD_DIM, HEADS
from tests.parallel.mixing import depends_on_all, mixed_unseen
from tests.parallel.overlap import (
    HABITS,
    STEPS,
    aborted,
    cost_of_steps,
    first_goes_on,
    kept,
    one_process,
    requests,
    steps_of_a_copy,
)
from tests.parallel.pipefusion import ODD, config
from tests.ranks import Ranks
from tests.tiny import call_kwargs, tiny_path
from tests.transformers import relative_error

pytestmark = pytest.mark.slow

MODELS = ("flux", "flux2", "qwen_image", "chroma")  # that take and return latents token by token
# All stages wait for each other when a step is whole, for the last latents, and for all outputs and latents at the end.
AT_LEAST = 3


@cache
def oracle(*args: Any, **kwargs: Any) -> Tensor:
    with torch.no_grad():
        return one_process(*args, **kwargs)


def check(ranks: Ranks, name: str, layout: str, settings: list[tuple[int, int]]) -> None:
    for outcome in ranks.run(requests, ParallelismConfig.parse(layout).world_size, name, layout, settings):
        for (patches, warmup), [(got, waits)] in zip(settings, outcome, strict=True):
            assert relative_error(got, oracle(name, patches, warmup)) <= 1e-10, (patches, warmup)
            assert waits == warmup + AT_LEAST


@pytest.mark.matrix
@pytest.mark.parametrize("layout", ["pp2", "pp3", "pp4"])
@pytest.mark.parametrize("name", MODELS)
def test_overlapping_steps_equal_the_oracle(ranks: Ranks, name: str, layout: str) -> None:
    check(ranks, name, layout, [(2, 1), (3, 2), (5, 1)] if name == "flux" else [(3, 1)])


@pytest.mark.parametrize("layout", ["pp2.tp2", "pp2.ulysses2", "pp2.ring2", "pp3.ulysses2", "pp2.ring2.ulysses2"])
@pytest.mark.parametrize("name", ["flux", "qwen_image"])
def test_overlap_stands_beside_other_axes(ranks: Ranks, name: str, layout: str) -> None:
    check(ranks, name, layout, [(3, 1)])


@pytest.mark.parametrize("habit", HABITS)
def test_whatever_a_pipeline_does_beside_it(ranks: Ranks, habit: str) -> None:
    want = oracle("flux", 3, 1, habit)
    for [[(got, waits)]] in ranks.run(requests, 3, "flux", "pp3", [(3, 1)], habit):
        assert relative_error(got, want) <= 1e-10
        assert waits == 1 + AT_LEAST or habit != "views"


@pytest.mark.parametrize("scheduler", ["noisy", "multistep"])
def test_a_scheduler_that_cannot_step_patches_waits_for_all(ranks: Ranks, scheduler: str) -> None:
    torch.manual_seed(0)
    want = oracle("flux", 3, 1, scheduler=scheduler)
    for [[(got, waits)]] in ranks.run(requests, 2, "flux", "pp2", [(3, 1)], scheduler=scheduler):
        assert relative_error(got, want) <= 1e-6  # the noise is float32, and so are some of a scheduler's numbers
        assert waits == STEPS


def test_two_requests_in_a_row_are_two_fresh_ones(ranks: Ranks) -> None:
    for [both] in ranks.run(requests, 2, "flux", "pp2", [(3, 1)], seeds=(0, 1)):
        for seed, (got, waits) in enumerate(both):
            assert relative_error(got, oracle("flux", 3, 1, seed=seed)) <= 1e-10
            assert waits == 1 + AT_LEAST


@pytest.mark.parametrize("where", ["pipeline", "transformer"])
def test_a_request_that_failed_leaves_nothing_behind(ranks: Ranks, where: str) -> None:
    for got in ranks.run(aborted, 2, where):
        assert relative_error(got, oracle("flux", 3, 1, seed=1)) <= 1e-10


def test_what_one_rank_keeps_is_there_after_the_end(ranks: Ranks) -> None:
    steps, _ = ranks.run(kept, 2, 3)
    assert len(steps) == STEPS
    assert relative_error(steps[-1], oracle("flux", 3, 1)) <= 1e-10
    assert all(x.isfinite().all() and not torch.equal(x, y) for x, y in pairwise(steps))
    assert relative_error(steps[2], oracle("flux", 3, 1, "stops")) <= 1e-10


@pytest.mark.parametrize("patches", [2, 3])
def test_the_first_stage_goes_on_before_the_last_is_done(ranks: Ranks, tmp_path: Path, patches: int) -> None:
    assert all(ranks.run(first_goes_on, 2, tmp_path, patches))


@pytest.mark.parametrize("patches", [2, 4])
def test_a_step_sends_its_latents_back_and_waits_for_nobody(ranks: Ranks, patches: int) -> None:
    batch, (height, width), text, _ = ODD
    image, channels, stand_ins, number = height * width, 4, patches - 1, 8
    first, last = ranks.run(cost_of_steps, 2, "pp2", patches)
    streams = batch * (image + text + stand_ins) * HEADS * HEAD_DIM * number
    latents = batch * image * channels * number
    agree = {"allreduce_": 1}  # before the first step that overlaps
    assert [calls for calls, _ in first] == [
        {"send": 2 * patches, "recv_": patches, **agree},
        {"send": 2 * patches, "recv_": patches},
        {"send": 2 * patches, "recv_": patches},
        {"send": 2 * patches, "broadcast_": 1},
    ]
    assert [sent["send"] for _, sent in first] == [streams] * 4
    assert [calls for calls, _ in last] == [
        {"send": patches, "recv_": 2 * patches, **agree},
        {"send": patches, "recv_": 2 * patches},
        {"send": patches, "recv_": 2 * patches},
        {"recv_": 2 * patches, "broadcast_": 1},
    ]
    assert [sent.get("send", 0) for _, sent in last] == [latents] * 3 + [0]


@pytest.mark.parametrize("where", ["before the blocks", "after them"])
def test_a_model_whose_stages_need_all_latents_is_found_out(ranks: Ranks, where: str) -> None:
    for deferred, at_once in ranks.run(depends_on_all, 2, where):
        assert torch.equal(deferred, at_once)


def test_latents_that_are_mixed_unseen_are_an_error(ranks: Ranks) -> None:
    for message in ranks.run(mixed_unseen, 2):
        assert "a hook or a replaced forward mixes the latents" in message


def test_a_copy_of_the_scheduler_steps_alone(ranks: Ranks) -> None:
    assert ranks.run(steps_of_a_copy, 2) == [(1, 3)] * 2


def pictures(path: Path, call: dict[str, Any], patches: int, deferred: bool) -> list[np.ndarray]:
    """What a stock pipeline draws, twice; a scheduler that takes another's place has nothing deferred."""
    pipe = DiffusionPipeline.from_pretrained(path)
    pipe.set_progress_bar_config(disable=True)
    arguments = inspect.signature(pipe.scheduler.step)
    ditmesh.enable_cache(pipe, parallelism_config=config("pp2", num_pipeline_patch=patches))
    assert inspect.signature(pipe.scheduler.step) == arguments
    if not deferred:
        pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config)
    call = call | {"num_inference_steps": 4, "output_type": "np"}
    return [np.asarray(pipe(**call, generator=torch.Generator().manual_seed(0))[0]) for _ in range(2)]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("name", ["flux", "flux2", "qwen_image"])
def test_stock_pipelines_draw_the_same(ranks: Ranks, tmp_path: Path, name: str) -> None:
    call = {key: x for key, x in call_kwargs(name).items() if key not in ("negative_prompt", "true_cfg_scale")}
    path = tiny_path(name, tmp_path)
    (want, _), _ = ranks.run(pictures, 2, path, call, 3, False)
    for both in ranks.run(pictures, 2, path, call, 3, True):
        assert all(np.array_equal(got, want) for got in both)
