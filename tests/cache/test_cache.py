"""DBCache of every sheet equals its algorithm as it is written, run on one process."""

import copy
import itertools
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ditmesh
from ditmesh import (
    DBCacheConfig,
    DMDCalibratorConfig,
    FoCaCalibratorConfig,
    ParamsModifier,
    TaylorSeerCalibratorConfig,
)  # fmt: skip
from ditmesh.upstream.modules import expand
from tests.cache.caching import build_deep, cached, config, oracle, requests, run
from tests.cases import CASES, float32_inside
from tests.transformers import SHAPES, forward, relative_error

# None of their blocks may be left out.
CACHED = [name for name in CASES if name not in ("latte", "wan_animate2", "anyflow_far")]
CALIBRATORS = [None, TaylorSeerCalibratorConfig(taylorseer_order=2), FoCaCalibratorConfig(), DMDCalibratorConfig()]


def check(name: str, dtype: torch.dtype, **settings: Any) -> None:
    want, steps = oracle(name, SHAPES["odd"], dtype, **settings)
    got, cached_steps = cached(name, "single", SHAPES["odd"], dtype, **settings)
    assert cached_steps == steps
    assert any(steps)
    for x, y in zip(got, want, strict=True):
        assert relative_error(x, y) <= (1e-12 if dtype == torch.float64 else 2e-6)


# A little noise makes the tiny OmniGen overflow: a request of it that is worth caching has yet to be found.
@pytest.mark.parametrize("name", [name for name in CACHED if name != "omnigen"])
def test_every_sheet_equals_the_written_algorithm(name: str) -> None:
    check(name, torch.float32 if float32_inside(name) else torch.float64)


@pytest.mark.matrix
@pytest.mark.parametrize("settings", [
    {"last": 1}, {"first": 2, "last": 1}, {"order": 1}, {"order": 1, "mode": "hidden_states"},
    {"last": 1, "order": 1, "mode": "hidden_states"},
], ids=str)  # fmt: skip
@pytest.mark.parametrize(
    "name", ["flux:controlnet", "flux2", "qwen_image:controlnet", "wan", "ltx2", "chroma:controlnet"]
)
def test_every_setting_equals_the_written_algorithm(name: str, settings: dict[str, Any]) -> None:
    check(name, torch.float64, **settings)


@pytest.mark.parametrize("name", CACHED)
def test_a_threshold_of_zero_changes_no_bit(name: str) -> None:
    model, inputs = build_deep(name, SHAPES["odd"], torch.float32)
    given = list(itertools.islice(requests(inputs), 2))
    with torch.no_grad():
        want = [forward(model, step) for step in given]
        ditmesh.enable_cache(model, cache_config=config(threshold=0.0))
        got = [forward(model, step) for step in given]
    assert all(torch.equal(x, y) for x, y in zip(got, want, strict=True))
    ditmesh.disable_cache(model)
    assert all("forward" not in vars(module) for module in model.modules())


def test_a_model_whose_blocks_take_turns_is_refused() -> None:
    model, _ = build_deep("latte", SHAPES["odd"], torch.float32)
    with pytest.raises(ValueError, match="take turns"):
        ditmesh.enable_cache(model, cache_config=config())


def test_last_blocks_that_reach_back_to_left_out_ones_are_refused() -> None:
    model, _ = build_deep("hunyuan_dit", SHAPES["odd"], torch.float32)
    with pytest.raises(ValueError, match="use Bn_compute_blocks=1"):
        ditmesh.enable_cache(model, cache_config=config(1, 2))
    ditmesh.enable_cache(model, cache_config=config(1, 1))


def test_more_blocks_than_there_are_are_refused_and_nothing_changes() -> None:
    model, _ = build_deep("wan", SHAPES["odd"], torch.float32)
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    with pytest.raises(ValueError, match=r"Fn_compute_blocks=8 .*the 4 blocks of blocks"):
        ditmesh.enable_cache(model)
    assert before == {name: set(vars(module)) for name, module in model.named_modules()}
    assert not model._forward_pre_hooks


@cache
def wan(dtype: torch.dtype = torch.float32) -> tuple[nn.Module, dict[str, Any]]:
    return build_deep("wan", SHAPES["odd"], dtype)


def enabled(*args: Any, dtype: torch.dtype = torch.float32, **kwargs: Any) -> tuple[nn.Module, dict[str, Any]]:
    model, inputs = wan(dtype)
    model = copy.deepcopy(model)
    ditmesh.enable_cache(model, *args, **kwargs)
    return model, inputs


def same(got: list[Tensor], want: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(got, want, strict=True))


@pytest.mark.parametrize("calibrator", CALIBRATORS, ids=lambda x: type(x).__name__)
def test_10_1_10_the_second_request_equals_the_first(calibrator: Any) -> None:
    model, inputs = enabled(config(num_inference_steps=5), calibrator)
    first = run(model, inputs)
    assert ditmesh.summary(model, logging=False)[0].cached_steps == (1, 3, 4)
    assert same(run(model, inputs), first)
    with torch.no_grad():
        forward(model, inputs)
    ditmesh.refresh_context(model)
    assert same(run(model, inputs), first)


@pytest.mark.parametrize("calibrator", CALIBRATORS, ids=lambda x: type(x).__name__)
@pytest.mark.parametrize("block", [0, 2])
def test_an_interrupted_request_does_not_spoil_the_next(calibrator: Any, block: int) -> None:
    model, inputs = enabled(config(), calibrator)
    first = run(model, inputs)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    hook = model.get_submodule(f"blocks.{block}").register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(model, inputs)
    hook.remove()
    ditmesh.refresh_context(model)
    assert same(run(model, inputs), first)


def test_a_cached_step_runs_the_first_and_last_blocks_alone() -> None:
    model, inputs = enabled(config(1, 1))
    ran: list[int] = []
    for i, (_, block) in enumerate(expand(model, "blocks.*")):
        block.attn1.register_forward_pre_hook(lambda *_, i=i: ran.append(i))
    run(model, inputs)
    assert ran == [0, 1, 2, 3, 0, 3, 0, 1, 2, 3, 0, 3, 0, 3]
    stats = ditmesh.summary(model, logging=False)[0]
    assert (stats.blocks_run, stats.blocks_total) == (14, 20)


def test_another_shape_is_computed_anew() -> None:
    model, inputs = enabled(config(threshold=1.0))
    larger = build_deep("wan", SHAPES["batch2"], torch.float32)[1]
    with torch.no_grad():
        outputs = [forward(model, given) for given in (inputs, inputs, larger, larger, inputs)]
    assert ditmesh.summary(model, logging=False)[0].cached_steps == (1, 3)
    plain, _ = wan()
    with torch.no_grad():
        assert torch.equal(outputs[2], forward(plain, larger))
        assert torch.equal(outputs[4], forward(plain, inputs))


def test_forecasts_of_a_bfloat16_model_are_float32() -> None:
    model, inputs = enabled(config(threshold=1.0), TaylorSeerCalibratorConfig(taylorseer_order=1), dtype=torch.bfloat16)
    run(model, inputs)
    state = next(iter(model._ditmesh_cache.chains[0].states.values()))
    kept = [x for forecast in state.forecasts.values() for x in forecast.differences]
    assert kept
    assert {x.dtype for x in kept} == {torch.float32}
    assert forward(model, inputs).dtype == torch.bfloat16


def test_branches_named_by_cache_context_count_their_own_steps() -> None:
    model, inputs = enabled(config())
    far = {**inputs, "hidden_states": inputs["hidden_states"] + 3}
    want = {name: run(*enabled(config())[:1], given) for name, given in (("cond", inputs), ("uncond", far))}
    got: dict[str, list[Tensor]] = {"cond": [], "uncond": []}
    for cond, uncond in zip(requests(inputs), requests(far), strict=True):
        for name, given in (("cond", cond), ("uncond", uncond)):
            with torch.no_grad(), model.cache_context(name):
                got[name].append(forward(model, given))
    assert all(same(got[name], want[name]) for name in want)
    assert {(s.branch, s.steps, s.cached_steps) for s in ditmesh.summary(model, logging=False)} == {
        ("cond", 5, (1, 3, 4)), ("uncond", 5, (1, 3, 4)),
    }  # fmt: skip


def test_a_branch_that_guidance_leaves_out_keeps_the_request_s_steps() -> None:
    model, inputs = enabled(config(steps_computation_mask=[1, 0, 0, 0, 1], steps_computation_policy="static"))
    for step in range(5):
        for name in ("cond", "uncond") if step != 1 else ("cond",):
            with torch.no_grad(), model.cache_context(name):
                forward(model, inputs)
    stats = {s.branch: (s.steps, s.cached_steps) for s in ditmesh.summary(model, logging=False)}
    assert stats == {"cond": (5, (1, 2, 3)), "uncond": (4, (2, 3))}


def test_branches_take_turns_and_the_second_takes_the_difference_of_the_first() -> None:
    settings = config(enable_separate_cfg=True, cfg_diff_compute_separate=False, num_inference_steps=3)
    model, inputs = enabled(settings)
    far = {**inputs, "hidden_states": inputs["hidden_states"] * -3}
    with torch.no_grad():
        for given in (inputs, inputs, inputs, far, inputs, inputs):
            forward(model, given)
    first, second = ditmesh.summary(model, logging=False)
    assert first.cached_steps == second.cached_steps == (1, 2)
    assert first.residual_diffs == second.residual_diffs


def test_a_video_made_in_chunks_forgets_at_each() -> None:
    for policy, steps in (("once", (1, 3)), ("repeat", (1, 3, 5))):
        hint = config(threshold=1.0, force_refresh_step_hint=2, force_refresh_step_policy=policy)
        model, inputs = enabled(hint)
        ran = []
        model.get_submodule("blocks.2").attn1.register_forward_pre_hook(lambda *_, ran=ran: ran.append(1))
        with torch.no_grad():
            for _ in range(6):
                forward(model, inputs)
        assert len(ran) == (2 if policy == "once" else 3), steps


def test_a_modifier_changes_what_it_is_given_in_its_own_list() -> None:
    model, inputs = build_deep("flux2", SHAPES["odd"], torch.float32)
    ditmesh.enable_cache(
        model,
        config(),
        params_modifiers=[
            ParamsModifier(DBCacheConfig(residual_diff_threshold=0.0)),
            ParamsModifier(calibrator_config=TaylorSeerCalibratorConfig(taylorseer_order=3)),
        ],
    )
    run(model, inputs)
    double, single = ditmesh.summary(model, logging=False)
    assert (double.cached_steps, double.calibrator) == ((), None)
    assert double.cache_options == config(threshold=0.0)
    assert single.cached_steps
    assert single.cache_options == config()
    assert isinstance(single.calibrator, TaylorSeerCalibratorConfig)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.slow
def test_a_compiled_model_equals_the_plain_one_and_is_compiled_once() -> None:
    from torch._dynamo.utils import counters

    want = run(*enabled(config()))
    for compile_first in (True, False):
        torch.compiler.reset()
        counters.clear()
        model, inputs = copy.deepcopy(wan()[0]), wan()[1]
        if compile_first:
            model.compile_repeated_blocks(fullgraph=False)
        ditmesh.enable_cache(model, config())
        if not compile_first:
            model.compile_repeated_blocks(fullgraph=False)
        given = list(requests(inputs))
        with torch.no_grad():
            got = [forward(model, given[0])]
            graphs = counters["stats"]["unique_graphs"]
            assert counters["stats"]["calls_captured"] > 50  # a whole block
            got += [forward(model, step) for step in given[1:]]
        assert counters["stats"]["unique_graphs"] == graphs
        assert ditmesh.summary(model, logging=False)[0].cached_steps == (1, 3, 4)
        assert max(relative_error(x, y) for x, y in zip(got, want, strict=True)) <= 1e-5
