"""A request that fails on one rank fails on all, in step; the next one is right. A rank that does not come is named."""

import os
import time
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from diffusers import FluxPipeline

import ditmesh
from ditmesh import ParallelismConfig
from ditmesh.runtime.mesh import TIMEOUT, patience
from tests.ranks import Ranks

CALL: dict[str, Any] = {
    "prompt": "a cat",
    "negative_prompt": "a dog",
    "true_cfg_scale": 2.0,
    "num_inference_steps": 4,
    "height": 32,
    "width": 48,
    "max_sequence_length": 7,
    "output_type": "np",
}
PATCHES = {"pp_size": 2, "num_pipeline_patch": 2}
LAYOUTS = [{"tp_size": 2}, {"ulysses_size": 2}, {"ring_size": 2}, {"cfg_size": 2}, PATCHES]
HYBRIDS = [{"ulysses_size": 2, "tp_size": 2}, {"cfg_size": 2, "ring_size": 2}, {"pp_size": 2, "tp_size": 2}]
FAILS = 1  # the rank


class Odd(Exception):
    """What nobody expects."""


def enabled(flux: str, sizes: dict[str, int]) -> Any:
    pipe = FluxPipeline.from_pretrained(flux)
    pipe.set_progress_bar_config(disable=True)
    extras = [] if "pp_size" in sizes else ["vae"]
    ditmesh.enable_cache(pipe, parallelism_config=ParallelismConfig(**sizes, extra_parallel_modules=extras))
    return pipe


def draw(pipe: Any, **changes: Any) -> np.ndarray:
    return pipe(**CALL | changes, generator=torch.Generator().manual_seed(0)).images[0]


def failing(at: str, error: BaseException, pipe: Any, here: bool) -> dict[str, Any]:
    """Arguments of a request that fails on one rank: as it begins, between two steps, in a block, or as it ends."""

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    def callback(pipe: Any, step: int, time: Any, given: dict[str, Any]) -> dict[str, Any]:
        return fail() if step == 1 else given

    if not here:
        return {}
    if at == "between steps":
        return {"callback_on_step_end": callback}
    module = {"encoding": pipe.text_encoder, "in a block": pipe.transformer.norm_out, "decoding": pipe.vae.decoder}[at]
    handle = module.register_forward_pre_hook(lambda *_: (handle.remove(), fail()))
    return {}


def failures(flux: str, sizes: dict[str, int]) -> list[str]:
    """What each failing request says here, and that the one after it is right."""
    pipe, rank, said = enabled(flux, sizes), dist.get_rank(), []
    right = draw(pipe)
    for at, error in (
        ("between steps", RuntimeError("too much")),
        ("in a block", torch.OutOfMemoryError("no room")),
        ("decoding", KeyboardInterrupt()),
        ("encoding", Odd("one")),
        ("between steps", ValueError("not this")),
    ):
        with pytest.raises(BaseException) as raised:  # noqa: PT011 - which it is, is what is returned
            draw(pipe, **failing(at, error, pipe, rank == FAILS))
        said.append(f"{type(raised.value).__name__}: {raised.value}")
        assert np.array_equal(draw(pipe), right), at
    assert len(draw(pipe, prompt="a bird")) == len(right)
    return said


@pytest.mark.parametrize("sizes", [*LAYOUTS, *HYBRIDS], ids=str)
def test_what_fails_on_one_rank_fails_on_all_and_the_next_request_is_right(
    ranks: Ranks, flux: str, sizes: dict[str, int]
) -> None:
    layout = ParallelismConfig(**sizes)
    said = ranks.run(failures, layout.world_size, flux, sizes)
    own = ["RuntimeError: too much", "OutOfMemoryError: no room", "KeyboardInterrupt: ", "Odd: one"]
    assert said[FAILS] == [*own, "ValueError: not this"]
    for other in said[:FAILS] + said[FAILS + 1 :]:
        *failed, refused = other
        for told, words in zip(failed, ("too much", "no room", "KeyboardInterrupt", "Odd: one"), strict=True):
            assert told.startswith("RuntimeError: rank 1 failed, and the request with it: ")
            assert words in told
        assert refused == "ValueError: not this"


def waiting(flux: str, seconds: float, patience_of: str) -> list[str]:
    """Rank 1 does not come to a request, or comes late; what the two say of it, and of the next one."""
    os.environ[TIMEOUT] = patience_of
    try:
        pipe, said = enabled(flux, {"ulysses_size": 2}), []
        draw(pipe)
        if dist.get_rank() == FAILS:
            time.sleep(seconds)
        for _ in range(2):
            try:
                draw(pipe)
                said.append("drawn")
            except RuntimeError as error:
                said.append(str(error))
        return said
    finally:
        del os.environ[TIMEOUT]


def test_a_rank_that_does_not_come_is_named(ranks: Ranks, flux: str) -> None:
    ranks.rest()  # groups that are there have a time already
    waited, late = ranks.run(waiting, 2, flux, 12.0, "2")
    ranks.rest()  # their groups are not whole
    assert waited[0] == f"rank 1 did not come within {TIMEOUT}=2 seconds, or ended."
    assert waited[1] == f"no further request can be drawn: {waited[0]}"
    assert "drawn" not in late


def test_a_rank_that_comes_late_is_waited_for(ranks: Ranks, flux: str) -> None:
    ranks.rest()
    assert ranks.run(waiting, 2, flux, 3.0, "60") == [["drawn", "drawn"]] * 2


@pytest.mark.parametrize("given", ["soon", "0", "-3", "nan", "inf", ""])
def test_a_time_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv(TIMEOUT, given)
    with pytest.raises(ValueError, match=f"{TIMEOUT}={given} is no number of seconds above 0"):
        patience()
