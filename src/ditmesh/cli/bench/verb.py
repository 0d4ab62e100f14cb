"""`ditmesh bench`: what a cache saves and what it costs, over thresholds, in one run."""

from dataclasses import dataclass, fields, make_dataclass
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import Any

import typer

from ditmesh.cli.flags import argument, option, switch, takes
from ditmesh.cli.generate.cache import CALIBRATORS, FIELDS
from ditmesh.cli.generate.job import describe_job
from ditmesh.cli.generate.options import MEASURE, Options
from ditmesh.cli.ranks import check_rank, failures, refusals
from ditmesh.runtime.world import World

THRESHOLDS = (0.03, 0.06, 0.09, 0.12, 0.18, 0.24, 0.36, 0.6)
FORECASTS = ("none", *CALIBRATORS)
# The flags that are those of generate.
SHARED = {"prompt", "negative_prompt", "skip_negative_prompt", "steps", "height", "width", "num_frames", "seed"}
SHARED |= {"generator_device", "extra_input_kwargs", "image_path", "mask_image_path", "input_height", "input_width"}
SHARED |= {"model_path", "transformer_path", "controlnet_path", "attn", "steps_mask", "mask_policy"}
SHARED |= set(FIELDS) - {"residual_diff_threshold"}


@dataclass(frozen=True)
class Sweep:
    """What is measured, beside the flags that generate has too."""

    example: str = argument("What to draw with.", "EXAMPLE")
    cache_sweep: bool = switch(MEASURE, "Measure the cache over thresholds.", "--cache-sweep")
    thresholds: str | None = option(MEASURE, f"By commas ({','.join(map(str, THRESHOLDS))}).", "--thresholds X,...")
    calibrator: str | None = option(
        MEASURE, f"By commas (none,taylorseer), of {', '.join(FORECASTS)}.", "--calibrator NAME,..."
    )
    repeat: int = option(
        MEASURE, "Pictures, each of another seed; the best times count (3).", "--repeat", low=1, default=3
    )
    save_path: Path | None = option(MEASURE, "The plot to write (EXAMPLE.cache.png).", "--save-path FILE.png")


def _flags() -> type:
    """The fields of the sweep, and of `generate` those that it shares, as one record."""
    both = (*fields(Sweep), *(f for f in fields(Options) if f.name in SHARED))
    return make_dataclass("BenchOptions", [(f.name, f.type, f) for f in both])


@takes(_flags())
def bench(context: typer.Context, **flags: Any) -> None:
    """Measure what a cache saves, and how far its pictures are from the exact ones.

    \b
      ditmesh bench demo --cache-sweep
      ditmesh bench flux --cache-sweep --thresholds 0.06,0.12,0.24 --calibrator none,taylorseer

    Every round draws a picture without a cache and one with each setting in turn, so that a machine which slows down
    slows down all of them.
    """
    world = World()
    with refusals(world):
        sweep = Sweep(**{f.name: flags.pop(f.name) for f in fields(Sweep)})
        thresholds, forecasts = settings(sweep)
        path = plot_path(sweep)
        options = Options(sweep.example, **flags, cache=True)
        job = describe_job(options, world)
    job = check_rank(job, world)
    from ditmesh.cli.bench.sweep import measure

    with failures(world):
        measure(job, options, thresholds, forecasts, sweep.repeat, path)


def settings(sweep: Sweep) -> tuple[list[float], list[str]]:
    """The thresholds and forecasts to measure.

    Raises:
        ValueError: nothing to measure, or what there is not.
    """
    if not sweep.cache_sweep:
        raise ValueError("bench has one measurement, which has to be asked for; add --cache-sweep.")
    words = sweep.thresholds.split(",") if sweep.thresholds else []
    try:
        thresholds = [float(word) for word in words] or list(THRESHOLDS)
    except ValueError:
        thresholds = [-1.0]
    if not all(isfinite(threshold) and threshold >= 0 for threshold in thresholds):
        raise ValueError(f"--thresholds {sweep.thresholds}: write numbers by commas, as in 0.06,0.12,0.24.")
    forecasts = sweep.calibrator.split(",") if sweep.calibrator else ["none", "taylorseer"]
    for name in forecasts:
        if name not in FORECASTS:
            raise ValueError(f"--calibrator {name}: use some of {', '.join(FORECASTS)}.")
    return sorted(set(thresholds)), list(dict.fromkeys(forecasts))


def plot_path(sweep: Sweep) -> Path:
    """Where the plot goes.

    Raises:
        ValueError: the name is none of a picture, or what draws it is not installed.
    """
    path = sweep.save_path or Path(f"{sweep.example}.cache.png")
    if path.suffix != ".png":
        raise ValueError(f"--save-path {path}: the plot is a picture; end the name in .png.")
    if find_spec("matplotlib") is None:
        raise ValueError("bench draws its plot with matplotlib, which is not installed; run: pip install matplotlib")
    return path
