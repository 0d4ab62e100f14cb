"""Requests: when one begins, whose randomness it draws, and that ranks which were asked for different things say so."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxImg2ImgPipeline,
    FluxPipeline,
)
from diffusers.modular_pipelines import FluxAutoBlocks
from PIL import Image

import ditmesh
from ditmesh import DBCacheConfig, ParallelismConfig
from tests.counting import CommunicationCounter
from tests.ranks import Ranks

PICTURE = Image.linear_gradient("L").convert("RGB").resize((48, 32))
CALL: dict[str, Any] = {
    "prompt": "a cat",
    "num_inference_steps": 3,
    "height": 32,
    "width": 48,
    "max_sequence_length": 7,
    "output_type": "np",
}
GUIDED = CALL | {"negative_prompt": "a dog", "true_cfg_scale": 2.0}
CACHE = DBCacheConfig(Fn_compute_blocks=1, max_warmup_steps=2, residual_diff_threshold=1.0)
PATCHES = {"num_pipeline_patch": 2, "warmup_steps": 2}
RANDOM = "stochastic_sampling"  # of a scheduler that draws without the caller's generator


def load(flux: str, layout: str | None = None, **options: Any) -> Any:
    pipe = FluxPipeline.from_pretrained(flux)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config, **options)
    if layout is not None:
        ditmesh.enable_cache(pipe, parallelism_config=ParallelismConfig.parse(layout))
    return pipe


def unseeded(flux: str, sizes: dict[str, int] | None) -> tuple[list[np.ndarray], bool]:
    """Two requests without a generator, and whether the rank's own was left as it was; the scheduler draws as well."""
    pipe = load(flux, **{RANDOM: True})
    rank = 0
    if sizes is not None:
        ditmesh.enable_cache(pipe, parallelism_config=ParallelismConfig(**sizes))
        rank = torch.distributed.get_rank()
    torch.manual_seed(7 + rank)
    before = torch.get_rng_state()
    images = [pipe(**GUIDED).images[0] for _ in range(2)]
    return images, torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "sizes",
    [{"tp_size": 2}, {"ulysses_size": 2}, {"ring_size": 2}, {"cfg_size": 2}, {"pp_size": 2, "num_pipeline_patch": 1}],
    ids=str,
)
def test_a_request_without_a_generator_draws_what_the_first_rank_would_draw_alone(
    ranks: Ranks, flux: str, sizes: dict[str, int]
) -> None:
    want, _ = unseeded(flux, None)
    (first, moved), (second, kept) = ranks.run(unseeded, 2, flux, sizes)
    assert not np.array_equal(*want)
    assert np.array_equal(first, second)
    assert np.abs(np.array(first) - np.array(want)).max() < 1e-5
    assert kept
    assert not moved


def different(flux: str, layout: str) -> tuple[list[str], float]:
    """What requests say whose arguments differ between ranks, and how far the next good one is from the first."""
    pipe, rank, told = load(flux, layout), torch.distributed.get_rank(), []
    good = GUIDED | {"generator": torch.Generator().manual_seed(0)}
    before = pipe(**good).images[0]
    for name, of_ranks in {
        "prompt": ("a cat", "a dog"),
        "height": (32, 48),
        "num_inference_steps": (3, 4),
        "generator": tuple(torch.Generator().manual_seed(seed) for seed in (0, 1)),
        "latents": (torch.zeros(1, 6, 16), torch.ones(1, 6, 16)),
        "sigmas": ([1.0, 0.5, 0.2], [1.0, 0.5, 0.3]),
    }.items():
        with pytest.raises(ValueError, match=rf"\({name} differ\)") as error:
            pipe(**GUIDED | {name: of_ranks[rank]})
        told.append(str(error.value))
    with pytest.raises(ValueError, match=r"\(prompt, guidance_scale differ\)"):
        pipe(**GUIDED | ({"prompt": "x"} if rank else {"guidance_scale": 2.0}))
    good["generator"] = torch.Generator().manual_seed(0)
    # Functions may differ: one rank may show how far it is.
    shown = {} if rank else {"callback_on_step_end": lambda pipe, step, time, kwargs: kwargs}
    return told, float(np.abs(pipe(**good, **shown).images[0] - before).max())


@pytest.mark.parametrize("layout", ["ulysses2", "cfg2"])
def test_ranks_that_are_asked_for_different_things_all_say_which(ranks: Ranks, flux: str, layout: str) -> None:
    (told, apart), (told_there, apart_there) = ranks.run(different, 2, flux, layout)
    assert told == told_there
    assert (apart, apart_there) == (0.0, 0.0)


def messages(flux: str) -> tuple[dict[str, int], int]:
    pipe = load(flux, "ulysses2")
    found = []
    for steps in (1, 2):
        with CommunicationCounter() as counted:
            pipe(**CALL | {"num_inference_steps": steps}, generator=torch.Generator().manual_seed(0))
        found.append(counted)
    once, twice = found
    calls = {name: 2 * once.calls[name] - twice.calls[name] for name in once.calls}
    return calls, 2 * once.total_bytes - twice.total_bytes


def test_a_request_costs_two_small_messages(ranks: Ranks, flux: str) -> None:
    """What does not grow with the steps: what the ranks agree on, and that they are done."""
    state = len(torch.get_rng_state())
    for calls, sent in ranks.run(messages, 2, flux):
        assert {name: count for name, count in calls.items() if count} == {"_allgather_base_": 2}
        assert sent == state + 32 + 1


def from_another(flux: str, make: str, enabled: dict[str, Any] | None, first: bool) -> tuple[np.ndarray, Any]:
    """A second pipeline over the same parts, made before or after the first was enabled."""
    pipe = FluxPipeline.from_pretrained(flux)
    pipe.set_progress_bar_config(disable=True)
    makes = {
        "from_pipe": lambda: FluxImg2ImgPipeline.from_pipe(pipe),
        "components": lambda: FluxImg2ImgPipeline(**pipe.components),
    }
    second = makes[make]() if first else None
    if enabled is not None:
        ditmesh.enable_cache(pipe, **enabled)
    second = second or makes[make]()
    second.set_progress_bar_config(disable=True)
    call = CALL | {"image": PICTURE, "num_inference_steps": 8, "strength": 0.7}
    drawn = []
    for prompt, seed in (("a dog", 9), ("a red circle", 0), ("a red circle", 0)):
        drawn.append(second(**call | {"prompt": prompt}, generator=torch.Generator().manual_seed(seed)).images[0])
    drawn.append(pipe(**CALL, generator=torch.Generator().manual_seed(1)).images[0])
    drawn.append(second(**call | {"prompt": "a dog"}, generator=torch.Generator().manual_seed(9)).images[0])
    cached = (
        [one.cached_steps for one in ditmesh.summary(pipe, logging=False)]
        if enabled and "cache_config" in enabled
        else []
    )
    if enabled is not None:
        ditmesh.disable_cache(pipe)
        assert type(pipe) is FluxPipeline
        assert type(second) is FluxImg2ImgPipeline
    return np.array([drawn[0], drawn[1], drawn[2], drawn[4]]), cached


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("make", ["from_pipe", "components"])
def test_a_second_pipeline_begins_requests_of_its_own(flux: str, make: str, first: bool) -> None:
    drawn, cached = from_another(flux, make, {"cache_config": CACHE}, first)
    assert np.array_equal(drawn[1], drawn[2])
    assert np.array_equal(drawn[0], drawn[3])
    assert cached == [(2, 3, 4, 5)]


@pytest.mark.parametrize("sizes", [{"ulysses_size": 2}, {"pp_size": 2, **PATCHES}])
def test_a_second_pipeline_is_spread_as_the_first(ranks: Ranks, flux: str, sizes: dict[str, int]) -> None:
    enabled = {"parallelism_config": ParallelismConfig(**sizes)}
    (drawn, _), (there, _) = ranks.run(from_another, 2, flux, "from_pipe", enabled, False)
    assert np.array_equal(drawn, there)
    assert np.array_equal(drawn[1], drawn[2])
    assert np.array_equal(drawn[0], drawn[3])
    want, _ = from_another(flux, "from_pipe", None, False)
    assert np.abs(drawn - want).max() < (1e-5 if "pp_size" not in sizes else 0.1)


def unseeded_second(flux: str) -> np.ndarray:
    pipe = load(flux, "ulysses2")
    second = FluxImg2ImgPipeline.from_pipe(pipe)
    second.set_progress_bar_config(disable=True)
    torch.manual_seed(torch.distributed.get_rank())
    return np.array([second(**CALL | {"strength": 1.0}, image=PICTURE).images[0] for _ in range(2)])


def test_the_first_call_of_a_second_pipeline_is_the_same_on_all_ranks(ranks: Ranks, flux: str) -> None:
    first, second = ranks.run(unseeded_second, 2, flux)
    assert np.array_equal(first, second)


def modular(flux: str, enabled: dict[str, Any] | None) -> list[np.ndarray]:
    parts = DiffusionPipeline.from_pretrained(flux).components
    pipe = FluxAutoBlocks().init_pipeline()
    pipe.update_components(**{name: part for name, part in parts.items() if part is not None})
    if enabled is not None:
        ditmesh.enable_cache(pipe, **enabled)
    call = CALL | {"num_inference_steps": 6, "output_type": "np"}
    return [
        np.array(pipe(**call | {"prompt": prompt}, output="images", generator=torch.Generator().manual_seed(0)))
        for prompt in ("a dog", "a cat", "a cat")
    ]


def test_a_modular_pipeline_begins_requests(flux: str) -> None:
    first, second, third = modular(flux, {"cache_config": CACHE})
    assert not np.array_equal(first, second)
    assert np.array_equal(second, third)


@pytest.mark.parametrize("sizes", [{"tp_size": 2}, {"pp_size": 2, **PATCHES}, {"pp_size": 2, "num_pipeline_patch": 1}])
def test_a_modular_pipeline_is_spread(ranks: Ranks, flux: str, sizes: dict[str, int]) -> None:
    want = modular(flux, None)
    for drawn in ranks.run(modular, 2, flux, {"parallelism_config": ParallelismConfig(**sizes)}):
        assert np.array_equal(drawn[1], drawn[2])
        assert np.abs(np.array(drawn) - np.array(want)).max() < (0.1 if "warmup_steps" in sizes else 1e-5)


def test_an_enabled_pipeline_looks_like_a_stock_one(flux: str, tmp_path: Path) -> None:
    pipe, other = FluxPipeline.from_pretrained(flux), FluxPipeline.from_pretrained(flux)
    ditmesh.enable_cache(pipe, cache_config=CACHE)
    assert type(pipe).__name__ == "FluxPipeline"
    assert isinstance(pipe, FluxPipeline)
    assert inspect.signature(pipe.__call__) == inspect.signature(other.__call__)
    pipe.save_pretrained(tmp_path)
    assert type(DiffusionPipeline.from_pretrained(tmp_path)) is FluxPipeline
    assert type(other) is FluxPipeline


def test_a_replaced_scheduler_tells_the_steps(flux: str) -> None:
    pipe = load(flux)
    ditmesh.enable_cache(pipe, cache_config=CACHE)
    for options in ({}, {"shift": 5.0}):
        pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config, **options)
        pipe(**CALL | {"num_inference_steps": 6}, generator=torch.Generator().manual_seed(0))
        [stats] = ditmesh.summary(pipe, logging=False)
        assert (stats.steps, stats.cached_steps) == (6, (2, 3, 4, 5))
