"""One call of the pipeline, and what came out of it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from ditmesh.cli.job import Job
from ditmesh.cli.memory import PhasePeaks


@dataclass(frozen=True)
class Drawn:
    """A result.

    Attributes:
        films: [batch, frames, height, width, 3 or 4] in [0, 1], not rounded to bytes; a picture is one frame.
        sound: [channels, samples] in [-1, 1], at ``rate`` samples a second, or None.
    """

    films: np.ndarray
    sound: np.ndarray | None = None
    rate: int = 0


def timed(pipe: Any, job: Job, peaks: PhasePeaks | None, show: bool, title: str) -> tuple[float, Drawn]:
    """One run: its seconds, and what it drew."""
    return _timed(pipe, job, job.call, job.seed, peaks, show, title)


def warmed(pipe: Any, job: Job, peaks: PhasePeaks | None, show: bool) -> float:
    """The seconds of one untimed run, which the user may have changed."""
    options = job.options
    changed = {"num_inference_steps": options.warmup_steps, "prompt": options.warmup_prompt}
    call = {**job.call, **{name: value for name, value in changed.items() if value is not None}}
    seed = job.seed if options.warmup_seed is None else options.warmup_seed
    return _timed(pipe, job, call, seed, peaks, show, "warm-up")[0]


def _timed(
    pipe: Any, job: Job, call: Mapping[str, Any], seed: int, peaks: PhasePeaks | None, show: bool, title: str
) -> tuple[float, Drawn]:
    pipe.set_progress_bar_config(disable=not show, desc=title)
    if dist.is_initialized():
        dist.barrier()
    started = time.perf_counter()
    if peaks:
        with peaks.of_call(pipe):
            drawn = draw(pipe, job, call, seed)
    else:
        drawn = draw(pipe, job, call, seed)
    return time.perf_counter() - started, drawn


def draw(pipe: Any, job: Job, call: Mapping[str, Any], seed: int) -> Drawn:
    """Call the pipeline.

    Raises:
        ValueError: what it drew is no numbers.
    """
    # Some pipelines draw without the generator, as a language model does that writes tokens first.
    torch.manual_seed(seed)
    noise = torch.Generator(job.options.generator_device).manual_seed(seed)
    result = pipe(**call, generator=noise, output_type="np")
    if "images" in result:
        films = np.asarray(result["images"])
        # A stack of layers for each prompt, or one picture for each.
        films = films.reshape(-1, 1, *films.shape[-3:])
    elif "video" in result:
        films = np.asarray(result["video"])[None]
    else:
        films = np.asarray(result["frames"])
    drawn = Drawn(films)
    if "audio" in result:
        sound = np.atleast_2d(result["audio"][0].float().cpu().numpy())
        drawn = Drawn(films, sound, pipe.vocoder.config.output_sampling_rate)
    if not all(np.isfinite(values).all() for values in (films, drawn.sound) if values is not None):
        raise ValueError(f"{job.model} drew values that are no numbers, so there is no picture; check its weights.")
    return drawn
