"""One call of the pipeline, and what came out of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ditmesh.job.description import Job

NO_NUMBERS = "values that are no numbers"


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

    @property
    def is_finite(self) -> bool:
        return all(np.isfinite(values).all() for values in (self.films, self.sound) if values is not None)


def call_pipeline(pipe: Any, call: Mapping[str, Any], seeds: Sequence[int], device: str = "cpu") -> Any:
    """The pipeline's own result, as numbers; each picture's noise comes from a generator of its own."""
    # Some pipelines draw without the generators, as a language model does that writes tokens first.
    torch.manual_seed(seeds[0])  # pyright: ignore[reportUnknownMemberType]
    return pipe(**call, generator=generators(seeds, device), output_type="np")


def generators(seeds: Sequence[int], device: str) -> Any:
    """The noise of each result, as pipelines take it."""
    noise = [torch.Generator(device).manual_seed(seed) for seed in seeds]
    return noise if len(noise) > 1 else noise[0]


def draw(pipe: Any, job: Job, call: Mapping[str, Any], seed: int) -> Drawn:
    """Call the pipeline once for one result.

    Raises:
        ValueError: what it drew is no numbers.
    """
    drawn = drawn_of(pipe, call_pipeline(pipe, call, [seed], job.noise_device))
    if not drawn.is_finite:
        raise ValueError(f"{job.model} drew {NO_NUMBERS}, so there is no picture; check its weights.")
    return drawn


def drawn_of(pipe: Any, result: Any) -> Drawn:
    """What a pipeline's own result holds."""
    if "images" in result:
        films = np.asarray(result["images"])
        # A stack of layers for each prompt, or one picture for each.
        films = films.reshape(-1, 1, *films.shape[-3:])
    elif "video" in result:
        films = np.asarray(result["video"])[None]
    else:
        films = np.asarray(result["frames"])
    if "audio" not in result:
        return Drawn(films)
    sound = np.atleast_2d(result["audio"][0].float().cpu().numpy())
    return Drawn(films, sound, pipe.vocoder.config.output_sampling_rate)
