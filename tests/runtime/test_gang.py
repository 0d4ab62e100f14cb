"""Ranks that fail together: an error of one is an error of all, and the next request is right."""

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

pytestmark = pytest.mark.slow

CALL: dict[str, Any] = {
    "prompt": "a cat",
    "negative_prompt": "a dog",
    "true_cfg_scale": 2.0,
    "num_inference_steps": 3,
    "height": 32,
    "width": 48,
    "max_sequence_length": 7,
    "output_type": "np",
}


def draw(pipe: Any, **changes: Any) -> np.ndarray:
    return pipe(**CALL | changes, generator=torch.Generator().manual_seed(0)).images


def fail(*args: Any, **kwargs: Any) -> Any:
    raise torch.OutOfMemoryError("no memory is left")


def interrupt(pipe: Any, step: int, time: Any, kwargs: Any) -> Any:
    """Ctrl-C after the second step."""
    if step == 1:
        raise KeyboardInterrupt
    return kwargs


def wrong(pipe: Any, step: int, time: Any, kwargs: Any) -> Any:
    """A callback of the last step that does not work."""
    if step == 2:
        raise TypeError("this callback takes three arguments")
    return kwargs


def failures(flux: str, layout: str, culprit: int) -> list[str]:
    """What each of several requests raised here that failed on one rank alone, with a good one after each."""
    pipe = FluxPipeline.from_pretrained(flux)
    pipe.set_progress_bar_config(disable=True)
    ditmesh.enable_cache(pipe, parallelism_config=ParallelismConfig.parse(layout))
    before = draw(pipe)  # patches of PipeFusion are not exact, but what they draw does not change
    is_culprit = dist.get_rank() == culprit
    seen = []
    block = pipe.transformer.single_transformer_blocks[0] if layout != "pp2" else pipe.transformer.proj_out
    ways: list[tuple[Any, dict[str, Any]]] = [
        (pipe.text_encoder, {}),
        (block, {}),
        (None, {"callback_on_step_end": interrupt}),
        (None, {"callback_on_step_end": wrong}),
        (pipe.vae.decoder, {}),
    ]
    for module, changes in ways:
        hook = module.register_forward_pre_hook(fail) if module is not None and is_culprit else None
        try:
            draw(pipe, **(changes if is_culprit else dict.fromkeys(changes, fine)))
            seen.append("drawn")
        except (RuntimeError, TypeError, KeyboardInterrupt) as error:
            seen.append(f"{type(error).__name__}: {error}")
        if hook is not None:
            hook.remove()
        assert np.abs(draw(pipe) - before).max() < 1e-5, seen
    ditmesh.disable_cache(pipe)
    return seen


def fine(pipe: Any, step: int, time: Any, kwargs: Any) -> Any:
    return kwargs


@pytest.mark.parametrize(
    "layout", ["cfg2", "tp2", "ulysses2", "ring2", "pp2", "ulysses2.tp2", "cfg2.tp2", "cfg2.ring2.tp2"]
)
def test_a_failure_of_one_rank_is_one_of_all_and_the_next_request_is_right(
    ranks: Ranks, flux: str, layout: str
) -> None:
    world = ParallelismConfig.parse(layout).world_size
    culprit = world - 1
    told = ranks.run(failures, world, flux, layout, culprit)
    oom = "OutOfMemoryError: no memory is left"
    own = [oom, oom, "KeyboardInterrupt: ", "TypeError: this callback takes three arguments", oom]
    assert told[culprit] == own
    for others in told[:culprit]:
        for what, theirs in zip(own, others, strict=True):
            assert theirs.startswith(f"RuntimeError: rank {culprit} failed: ")
            assert what.split(":")[0] in theirs


def enabled(flux: str) -> Any:
    pipe = FluxPipeline.from_pretrained(flux)
    pipe.set_progress_bar_config(disable=True)
    return ditmesh.enable_cache(pipe, parallelism_config=ParallelismConfig(ulysses_size=2))


def waiting(flux: str, seconds: float, patience_of: str) -> list[str]:
    """Rank 1 does not come to a request, or comes late; what the two say of it, and of the next one."""
    os.environ[TIMEOUT] = patience_of
    try:
        pipe, said = enabled(flux), []
        draw(pipe)
        if dist.get_rank() == 1:
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
    assert waited[0] == f"rank 1 did not come within {TIMEOUT}=2 seconds, or ended; start the job again."
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
