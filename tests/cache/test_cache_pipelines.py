"""What a request, a step and a branch are where a pipeline calls its transformers."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
    WanPipeline,
)  # fmt: skip
from torch import Tensor

import ditmesh
from ditmesh import BlockAdapter, DMDCalibratorConfig, FoCaCalibratorConfig, ForwardPattern, TaylorSeerCalibratorConfig
from tests.cache.caching import build_deep, config
from tests.tiny import call_kwargs, tiny_path
from tests.transformers import SHAPES

CALIBRATORS = [None, TaylorSeerCalibratorConfig(taylorseer_order=2), FoCaCalibratorConfig(), DMDCalibratorConfig()]


class TwoCalls(DiffusionPipeline):
    """Calls its transformer for each branch of guidance, without naming them, and for the second not in every step."""

    def __init__(self, transformer: Any, scheduler: Any):
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler)

    @torch.no_grad()
    def __call__(self, inputs: dict[str, Any], steps: int = 6, guided: range = range(100), fail_at: int = -1) -> Tensor:
        self.scheduler.set_timesteps(steps)
        x = inputs["hidden_states"]
        other = inputs["encoder_hidden_states"].flip(-1)
        with self.progress_bar(total=steps):
            for i, t in enumerate(self.scheduler.timesteps):
                if i == fail_at:
                    raise RuntimeError("no memory")
                given = {**inputs, "hidden_states": x, "timestep": t.expand(1)}
                made = self.transformer(**given, return_dict=False)[0]
                if i in guided:
                    without = self.transformer(**{**given, "encoder_hidden_states": other}, return_dict=False)[0]
                    made = without + 2 * (made - without)
                x = self.scheduler.step(0.05 * made, t, x, return_dict=False)[0]
        return x


@pytest.fixture
def pipe() -> TwoCalls:
    model, _ = build_deep("wan", SHAPES["odd"], torch.float32)
    pipe = TwoCalls(model, FlowMatchEulerDiscreteScheduler(shift=3.0))
    pipe.set_progress_bar_config(disable=True)
    return pipe


INPUTS = build_deep("wan", SHAPES["odd"], torch.float32)[1]


def steps_of(pipe: Any) -> dict[str, tuple[int, tuple[int, ...]]]:
    return {one.branch: (one.steps, one.cached_steps) for one in ditmesh.summary(pipe, logging=False)}


@pytest.mark.parametrize("calibrator", CALIBRATORS, ids=lambda x: type(x).__name__)
def test_every_request_begins_anew(pipe: TwoCalls, calibrator: Any) -> None:
    ditmesh.enable_cache(pipe, config(threshold=1.0, max_continuous_cached_steps=1), calibrator)
    first = pipe(INPUTS)
    assert steps_of(pipe) == {"0": (6, (1, 3, 5)), "1": (6, (1, 3, 5))}
    assert torch.equal(pipe(INPUTS), first)
    with pytest.raises(RuntimeError, match="no memory"):
        pipe(INPUTS, fail_at=3)
    assert torch.equal(pipe(INPUTS), first)
    pipe({**INPUTS, "hidden_states": INPUTS["hidden_states"][..., :6]}, steps=3)
    assert torch.equal(pipe(INPUTS), first)


def test_a_threshold_of_zero_changes_no_bit(pipe: TwoCalls) -> None:
    want = pipe(INPUTS)
    ditmesh.enable_cache(pipe, config(threshold=0.0))
    assert torch.equal(pipe(INPUTS), want)


@pytest.mark.parametrize("scheduler", [
    FlowMatchHeunDiscreteScheduler(), UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
])  # fmt: skip
def test_a_scheduler_may_be_changed_afterwards(pipe: TwoCalls, scheduler: Any) -> None:
    ditmesh.enable_cache(pipe, config(threshold=1.0))
    pipe.scheduler = copy.deepcopy(scheduler)
    pipe(INPUTS)
    calls = len(pipe.scheduler.timesteps)
    assert steps_of(pipe) == {branch: (calls, tuple(range(1, calls))) for branch in ("0", "1")}


def test_guidance_may_leave_out_a_branch_at_some_steps(pipe: TwoCalls) -> None:
    ditmesh.enable_cache(pipe, config(threshold=1.0))
    pipe(INPUTS, guided=range(2, 5))
    assert steps_of(pipe) == {"0": (6, (1, 2, 3, 4, 5)), "1": (3, (3, 4))}


def test_one_branch_where_there_are_two_is_refused(pipe: TwoCalls) -> None:
    ditmesh.enable_cache(pipe, config(enable_separate_cfg=False))
    with pytest.raises(ValueError, match="leave enable_separate_cfg out"):
        pipe(INPUTS)


def test_an_adapter_with_a_pipeline(pipe: TwoCalls) -> None:
    by_sheet = copy.deepcopy(pipe)
    blocks = pipe.transformer.blocks
    adapter = BlockAdapter(pipe=pipe, blocks=blocks, forward_pattern=ForwardPattern.Pattern_2)
    assert ditmesh.enable_cache(adapter, config(threshold=1.0)) is adapter
    ditmesh.enable_cache(by_sheet, config(threshold=1.0))
    got = [pipe(INPUTS), pipe(INPUTS)]
    want = by_sheet(INPUTS)
    assert torch.equal(got[0], want)
    assert torch.equal(got[1], want)


def test_two_transformers_count_their_own_steps(tmp_path: Path) -> None:
    pipe = WanPipeline.from_pretrained(tiny_path("wan_two", tmp_path))
    pipe.set_progress_bar_config(disable=True)
    ditmesh.enable_cache(pipe, config(threshold=1.0))
    call = call_kwargs("wan_two") | {"num_inference_steps": 6, "output_type": "latent"}
    frames = [pipe(**call, generator=torch.Generator().manual_seed(0)).frames for _ in range(2)]
    assert torch.equal(*frames)
    stats = ditmesh.summary(pipe, logging=False)
    assert [one.branch for one in stats] == ["cond", "uncond", "cond", "uncond"]
    assert stats[0].steps + stats[2].steps == 6
    assert all(one.cached_steps == tuple(range(1, one.steps)) for one in stats)
    assert stats[0].steps < stats[2].steps
