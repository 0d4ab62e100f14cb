"""Pipelines over the parts of an enabled one: their first call is found under way, and is in step from there."""

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxImg2ImgPipeline, FluxPipeline
from diffusers.modular_pipelines import FluxAutoBlocks

import ditmesh
from tests.ranks import Ranks
from tests.upstream.test_request import CACHE, CALL, PICTURE, load

pytestmark = pytest.mark.slow

IMAGE = CALL | {"image": PICTURE, "strength": 1.0}


def second(pipe: Any) -> Any:
    made = FluxImg2ImgPipeline.from_pipe(pipe)
    made.set_progress_bar_config(disable=True)
    return made


def refused(pipe: Any, **call: Any) -> str:
    with pytest.raises(ValueError, match="draw one picture") as error:
        pipe(**call)
    return str(error.value)


class DrawsFirst(FluxPipeline):
    """A pipeline that draws noise before it calls a part, and tells nobody."""

    def __call__(self, embeds: torch.Tensor, pooled: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        noise, time = torch.randn(1, 6, self.transformer.config.in_channels), torch.ones(1)
        ids = [torch.zeros(length, 3) for length in (embeds.shape[1], 6)]
        return self.transformer(noise, embeds, pooled, time, ids[1], ids[0], time)[0]


def first_calls(flux: str, layout: str) -> tuple[list[np.ndarray], list[str], bool]:
    """Pictures of pipelines that live for one request, what ranks that part say, and whose randomness is left."""
    pipe, rank = load(flux, layout, stochastic_sampling=True), torch.distributed.get_rank()
    torch.manual_seed(7 + rank)
    own = torch.get_rng_state()
    drawn = [second(pipe)(**IMAGE).images[0] for _ in range(3)]
    kept = torch.equal(own, torch.get_rng_state())
    told = [refused(second(pipe), **IMAGE | {"prompt": ("a cat", "a dog")[rank]})]
    embeds = dict(zip(("prompt_embeds", "pooled_prompt_embeds"), pipe.encode_prompt("a cat", None), strict=False))
    torch.manual_seed(rank)
    told.append(refused(FluxPipeline(**pipe.components), **CALL | embeds | {"prompt": None}))  # draws noise first
    torch.manual_seed(rank)
    told.append(refused(DrawsFirst(**pipe.components), embeds=embeds["prompt_embeds"], pooled=list(embeds.values())[1]))
    drawn.append(pipe(**CALL, generator=torch.Generator().manual_seed(0)).images[0])
    return drawn, told, kept


@pytest.mark.parametrize("layout", ["tp2", "ulysses2"])
def test_first_calls_draw_what_the_first_rank_would_draw_alone(ranks: Ranks, flux: str, layout: str) -> None:
    (drawn, told, moved), (there, told_there, kept) = ranks.run(first_calls, 2, flux, layout)
    alone = load(flux, stochastic_sampling=True)
    torch.manual_seed(7)
    want = [second(alone)(**IMAGE).images[0] for _ in range(3)]
    assert np.abs(np.array(drawn[:3]) - np.array(want)).max() < 1e-5
    assert np.array_equal(drawn, there)
    assert kept
    assert not moved
    assert told == told_there
    assert "(prompt differ)" in told[0]
    assert "(latents differ)" in told[1]
    assert "(the first latents differ)" in told[2]
    assert all("a generator with the same seed" in words for words in told)


def test_pipelines_of_one_request_each_begin_anew_and_are_not_kept(flux: str) -> None:
    pipe = load(flux)
    ditmesh.enable_cache(pipe, cache_config=CACHE)
    call, drawn, alive = IMAGE | {"num_inference_steps": 6}, [], []
    for prompt in ("a dog", "a cat", "a dog"):
        made = second(pipe)
        alive.append(weakref.ref(made))
        drawn.append(made(**call | {"prompt": prompt}, generator=torch.Generator().manual_seed(0)).images[0])
        [stats] = ditmesh.summary(pipe, logging=False)
        assert (stats.steps, stats.cached_steps) == (6, (2, 3, 4, 5))
        del made
    gc.collect()
    assert np.array_equal(drawn[0], drawn[2])
    assert not any(made() for made in alive)


class Twice(FluxPipeline):
    """A pipeline that calls another one over its parts, with a scheduler of its own."""

    def __call__(self, inner: Any, **call: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().__call__(**call), inner(**call, image=PICTURE)


def test_a_pipeline_that_calls_another_goes_by_the_steps_of_that_one(flux: str) -> None:
    pipe = load(flux)
    twice = Twice(**pipe.components)
    twice.set_progress_bar_config(disable=True)
    inner = FluxImg2ImgPipeline(**pipe.components | {"scheduler": load(flux).scheduler})
    inner.set_progress_bar_config(disable=True)
    ditmesh.enable_cache(twice, cache_config=CACHE)
    for _ in range(2):
        inner(**IMAGE)
        twice(inner, **CALL | {"num_inference_steps": 5})
        [stats] = ditmesh.summary(twice, logging=False)
        assert (stats.steps, stats.cached_steps) == (3, (2,))


def arguments(flux: str) -> list[str]:
    """What ranks say that are asked for the same in other words, for something unknown, or for different things."""
    pipe, rank, told = load(flux, "ulysses2"), torch.distributed.get_rank(), []
    pipe(**CALL | ({"guidance_scale": 3.5, "num_images_per_prompt": 1} if rank else {}))
    with pytest.raises((TypeError, RuntimeError)) as error:
        pipe(**CALL | ({"size": 3} if rank else {}))
    told.append(str(error.value))
    modular = FluxAutoBlocks().init_pipeline()
    modular.update_components(**{name: part for name, part in pipe.components.items() if part is not None})
    ditmesh.disable_cache(pipe)
    ditmesh.enable_cache(modular, parallelism_config=ditmesh.ParallelismConfig(tp_size=2))
    call = {name: x for name, x in CALL.items() if name != "output_type"}
    state: Any = modular(**call)
    told.append(refused(modular, **call | {"prompt": f"rank {rank}"}))
    state.set("height", (32, 48)[rank])
    told.append(refused(modular, state=state))
    return told


def test_arguments_are_compared_by_what_they_mean(ranks: Ranks, flux: str) -> None:
    (failed, *told), (own, *told_there) = ranks.run(arguments, 2, flux)
    assert "unexpected keyword argument 'size'" in own
    assert "unexpected keyword argument 'size'" in failed
    assert told == told_there
    assert "(prompt differ)" in told[0]
    assert "(height differ)" in told[1]


def fails(*args: Any, **kwargs: Any) -> Any:
    raise TypeError("this callback does not work")


def first_call_fails(flux: str, where: str) -> tuple[str, float]:
    """What a first call that fails on rank 1 raises here, and how far the next one is from one before."""
    pipe, rank = load(flux, "ulysses2"), torch.distributed.get_rank()
    seeded = {"generator": torch.Generator().manual_seed(0)}
    want = pipe(**CALL, **seeded).images[0]
    made = second(pipe)
    hook = pipe.vae.decoder.register_forward_pre_hook(fails) if rank == 1 and where == "vae" else None
    try:
        made(**IMAGE, **({"callback_on_step_end": fails} if rank == 1 and hook is None else {}))
        told = "drawn"
    except (TypeError, RuntimeError) as error:
        told = f"{type(error).__name__}: {error}"
    if hook is not None:
        hook.remove()
    seeded = {"generator": torch.Generator().manual_seed(0)}
    return told, float(np.abs(pipe(**CALL, **seeded).images[0] - want).max())


@pytest.mark.parametrize("where", ["callback", "vae"])
def test_a_first_call_that_fails_on_one_rank_fails_on_all(ranks: Ranks, flux: str, where: str) -> None:
    (waited, apart), (failed, apart_there) = ranks.run(first_call_fails, 2, flux, where)
    assert failed == "TypeError: this callback does not work"
    assert waited.startswith("RuntimeError")
    assert (apart, apart_there) == (0.0, 0.0)


def shares_an_encoder(flux: str) -> tuple[list[str], bool]:
    """What ranks say that ask a pipeline for different things of which only a shared text encoder, or VAE, is ours."""
    pipe, rank, told = FluxPipeline.from_pretrained(flux), torch.distributed.get_rank(), []
    layout = ditmesh.ParallelismConfig(ulysses_size=2, extra_parallel_modules=("text_encoder_2", "vae"))
    ditmesh.enable_cache(pipe, parallelism_config=layout)
    own = {"transformer": load(flux).transformer, "scheduler": load(flux).scheduler}
    for name in ("text_encoder_2", "vae"):
        parts = load(flux).components | own | {name: pipe.components[name]}
        told.append(refused(FluxImg2ImgPipeline(**parts), **IMAGE | {"prompt": ("a cat", "a dog")[rank]}))
    drawn = second(pipe)(**IMAGE, generator=torch.Generator().manual_seed(0)).images[0]
    return told, np.abs(
        drawn - second(load(flux))(**IMAGE, generator=torch.Generator().manual_seed(0)).images[0]
    ).max() < 1e-4


def test_a_pipeline_that_shares_an_encoder_alone_is_found(ranks: Ranks, flux: str) -> None:
    (told, right), (told_there, right_there) = ranks.run(shares_an_encoder, 2, flux)
    assert told == told_there
    assert all("(prompt" in words for words in told)
    assert right
    assert right_there
