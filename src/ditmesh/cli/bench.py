"""`ditmesh bench`: what a cache saves and what it costs, over thresholds, in one run."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ditmesh.cli.caching import CALIBRATORS
from ditmesh.cli.flags import takes
from ditmesh.cli.generate import refusals
from ditmesh.cli.job import World, prepare
from ditmesh.cli.options import CACHE, INPUT, MEASURE, MODEL, PICTURE, Options

THRESHOLDS = (0.03, 0.06, 0.09, 0.12, 0.18, 0.24, 0.36, 0.6)
FORECASTS = ("none", *CALIBRATORS)
# The flags that are those of generate.
SHARED = {
    **dict.fromkeys(("prompt", "negative_prompt", "skip_negative_prompt", "steps", "height", "width"), PICTURE),
    **dict.fromkeys(("num_frames", "seed", "generator_device", "extra_input_kwargs"), PICTURE),
    **dict.fromkeys(("image_path", "mask_image_path", "input_height", "input_width"), INPUT),
    **dict.fromkeys(("model_path", "transformer_path", "controlnet_path", "attn"), MODEL),
    **dict.fromkeys(("Fn_compute_blocks", "Bn_compute_blocks", "max_warmup_steps", "warmup_interval"), CACHE),
    **dict.fromkeys(("max_cached_steps", "max_continuous_cached_steps", "steps_mask", "mask_policy"), CACHE),
}


def _option(help: str, *names: str, low: int | None = None, value: str | None = None):
    return typer.Option(*names, help=help, min=low, metavar=value, rich_help_panel=MEASURE, show_default=False)


@dataclass(frozen=True)
class Sweep:
    """What is measured, beside the flags that generate has too."""

    example: Annotated[str, typer.Argument(metavar="EXAMPLE", help="What to draw with.", show_default=False)]
    cache_sweep: Annotated[bool, _option("Measure the cache over thresholds.", "--cache-sweep")] = False
    thresholds: Annotated[
        str | None, _option(f"By commas ({','.join(map(str, THRESHOLDS))}).", "--thresholds", value="X,...")
    ] = None
    calibrator: Annotated[
        str | None,
        _option(f"By commas (none,taylorseer), of {', '.join(FORECASTS)}.", "--calibrator", value="NAME,..."),
    ] = None
    repeat: Annotated[int, _option("Pictures, each of another seed; the best times count (3).", "--repeat", low=1)] = 3
    save_path: Annotated[
        Path | None, _option("The plot to write (EXAMPLE.cache.png).", "--save-path", value="FILE.png")
    ] = None


def _flags() -> type:
    """The fields of the sweep, and of `generate` those that it shares, as one record."""
    both = [(f.name, f.type, f) for f in (*fields(Sweep), *(f for f in fields(Options) if f.name in SHARED))]
    return make_dataclass("BenchOptions", both)


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
        job = prepare(Options(sweep.example, **flags, cache=True), world)
        path = plot_path(sweep)
    raise typer.Exit(_measure(job, thresholds, forecasts, sweep.repeat, path))


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
        raise ValueError(f"--thresholds {sweep.thresholds}: write numbers by commas, as in 0.06,0.12,0.24.") from None
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
    from importlib.util import find_spec

    path = sweep.save_path or Path(f"{sweep.example}.cache.png")
    if path.suffix != ".png":
        raise ValueError(f"--save-path {path}: the plot is a picture; end the name in .png.")
    if find_spec("matplotlib") is None:
        raise ValueError("bench draws its plot with matplotlib, which is not installed; run: pip install matplotlib")
    return path


def _measure(job: Any, thresholds: Sequence[float], forecasts: Sequence[str], rounds: int, path: Path) -> int:
    from ditmesh.cli.quiet import keep_quiet, quiet_imports

    quiet_imports()
    from ditmesh.cli.checks import check_job
    from ditmesh.cli.sweep import measure

    with refusals(World()):
        job = check_job(job)
    keep_quiet(True)
    measure(job, thresholds, forecasts, rounds, path)
    return 0
