"""What a pipeline would draw of the latents it has by now: after the last step its picture, and never another one."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import DiffusionPipeline

from ditmesh.job.draw import call_pipeline, drawn_of, generators
from ditmesh.upstream.partway import CALLBACK, Partway, no_way
from ditmesh.upstream.steps import Steps
from tests.tiny import call_kwargs, tiny_path

pytestmark = pytest.mark.slow

# Packed and unpacked latents, two text encoders, an image that goes in, noise while decoding, a video.
FAMILIES = ("flux", "sd3", "flux_kontext", "ltx", "wan", "cogview4", "z_image")


def load(family: str, folder: Path) -> tuple[Any, dict[str, Any]]:
    pipe: Any = DiffusionPipeline.from_pretrained(tiny_path(family, folder))
    pipe.set_progress_bar_config(disable=True)
    call = {name: x for name, x in call_kwargs(family).items() if name not in ("generator", "output_type")}
    return pipe, call


def looked_at(pipe: Any, call: dict[str, Any]) -> tuple[np.ndarray, list[np.ndarray], str]:
    """What a pipeline draws, what was seen of it after each step, and why nothing was."""
    seen = list[np.ndarray]()
    show = lambda result: seen.append(drawn_of(pipe, result).films)  # noqa: E731
    with ExitStack() as undo, Partway(pipe, Steps(pipe, [pipe.transformer], undo), every_step, show) as partway:
        look = partway.callback(call, lambda: generators([3], "cpu"))
        drawn = drawn_of(pipe, call_pipeline(pipe, call | {CALLBACK: look}, [3])).films
    return drawn, seen, partway.no_way


def every_step(done: int, steps: int) -> bool:
    return True


@pytest.mark.parametrize("family", FAMILIES)
def test_after_the_last_step_the_picture_is_seen_and_nothing_is_disturbed(family: str, tmp_path: Path) -> None:
    pipe, call = load(family, tmp_path)
    assert no_way(pipe) == ""
    want = drawn_of(pipe, call_pipeline(pipe, call, [3])).films
    before = set(vars(pipe))
    drawn, seen, why = looked_at(pipe, call)
    assert why == ""
    assert np.array_equal(drawn, want)
    assert len(seen) > 1
    assert np.array_equal(seen[-1], want)
    assert not np.array_equal(seen[0], want)
    assert set(vars(pipe)) == before


def test_a_pipeline_that_draws_in_several_goes_shows_nothing_and_says_so(tmp_path: Path) -> None:
    pipe, call = load("helios", tmp_path)
    want = drawn_of(pipe, call_pipeline(pipe, call, [3])).films
    drawn, seen, why = looked_at(pipe, call)
    assert np.array_equal(drawn, want)
    assert not seen
    assert "several goes" in why


@pytest.mark.parametrize(
    ("family", "why"),
    [
        ("lumina2", "a Lumina2Pipeline has no interrupt"),
        ("anyflow_far", "a AnyFlowFARPipeline has no interrupt that its steps ask for"),
        ("hunyuan_video15", "a HunyuanVideo15Pipeline has no callback_on_step_end"),
    ],
)
def test_a_pipeline_without_a_way_says_so(family: str, why: str, tmp_path: Path) -> None:
    assert no_way(load(family, tmp_path)[0]) == why
