"""Draw the same pictures with a cache over many thresholds, and without one, in turns; and show what came of it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import ditmesh
from ditmesh.cli.generate import verify
from ditmesh.cli.generate.cache import asked_cache
from ditmesh.cli.generate.options import Options
from ditmesh.config import calibrators
from ditmesh.job import load
from ditmesh.job.caching import Cached
from ditmesh.job.description import Job
from ditmesh.job.devices import device_of, dtype_of, name_of
from ditmesh.job.draw import Drawn, draw
from ditmesh.runtime.terminal import shown
from ditmesh.runtime.world import World

CacheStats = Any  # of ditmesh.summary
GOOD = 30.0  # dB


@dataclass
class Point:
    """One setting, and a value of each round for all that was measured.

    Attributes:
        cached: steps, of all branches and chains the most.
        saved: share of the block calls that was left out.
        seconds: of the transformers' forwards.
        alone: of those without a cache, in the same rounds.
    """

    threshold: float
    forecast: str
    cached: list[int] = field(default_factory=list)
    saved: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    psnr: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)

    @property
    def time(self) -> float:
        """As a share of the exact time; the best of the rounds, since others may use the machine."""
        return min(self.seconds) / min(self.alone)


class StepClock:
    """The seconds that transformers take, without what a pipeline does before, between and after.

    On a CPU they are the processor's, which do not pass while other processes have it.
    """

    def __init__(self, modules: Sequence[nn.Module], device: torch.device):
        self.cuda, self.seconds, self.started = device.type == "cuda", 0.0, 0.0
        for module in modules:
            module.register_forward_pre_hook(self._start, prepend=True)
            module.register_forward_hook(self._stop)

    def _now(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter() if self.cuda else time.process_time()

    def _start(self, module: nn.Module, args: Any) -> None:
        self.started = self._now()

    def _stop(self, module: nn.Module, args: Any, output: Any) -> None:
        self.seconds += self._now() - self.started


def measure(
    job: Job, options: Options, thresholds: Sequence[float], forecasts: Sequence[str], rounds: int, path: Path
) -> None:
    """Measure every setting and print the table; write the plot to ``path``."""
    from ditmesh.cli.bench.frontier import plot

    device = device_of(World())
    pipe = load.load_bare(job, dtype_of(job, device))
    load.place(pipe, job, device)
    clock = StepClock([pipe.components[name] for name in job.facts.transformers], device)
    points = [Point(threshold, name) for name in forecasts for threshold in thresholds]
    console = Console(highlight=False)
    _draw(pipe, job, clock, None, 0)  # the first run of a process is slower
    for number in range(rounds):
        exact, alone, _ = _draw(pipe, job, clock, None, number)
        for point in points:
            drawn, seconds, stats = _draw(pipe, job, clock, _cache(job, options, point), number)
            found = verify.compare(drawn.films, exact.films)
            point.seconds.append(seconds)
            point.alone.append(alone)
            point.psnr.append(found.psnr)
            point.ssim.append(found.ssim)
            point.cached.append(max(len(one.cached_steps) for one in stats))
            point.saved.append(1 - sum(one.blocks_run for one in stats) / sum(one.blocks_total for one in stats))
        console.print(f"picture {number + 1} of {rounds}: drawn with {len(points)} settings", style="dim")
    console.print(table(points, job, name_of(device)))
    console.print(f"\n{best(points)}", soft_wrap=True)
    plot(points, f"{job.example.name}, {job.call.get('num_inference_steps')} steps", path)
    console.print(f"saved {shown(path)}", soft_wrap=True, markup=False)


def _cache(job: Job, asked: Options, point: Point) -> Cached:
    """The job's cache with the threshold and the forecast of a point."""
    own = {name: name == point.forecast for name in calibrators()}
    options = replace(asked, residual_diff_threshold=point.threshold, **own)
    steps = job.call.get("num_inference_steps")
    cache = asked_cache(options, {}, job.example, len(job.facts.transformers), steps)
    assert cache is not None
    return cache


def _draw(
    pipe: Any, job: Job, clock: StepClock, cache: Cached | None, number: int
) -> tuple[Drawn, float, list[CacheStats]]:
    """A picture, the seconds of its steps, and what was cached."""
    job = replace(job, cache=cache)
    load.share_out(pipe, job)
    pipe.set_progress_bar_config(disable=True)
    clock.seconds = 0.0
    drawn = draw(pipe, job, job.call, job.seed + number)
    stats = ditmesh.summary(pipe, logging=False) if cache else []
    if cache or job.kernel:
        ditmesh.disable_cache(pipe)
    return drawn, clock.seconds, stats


def table(points: Sequence[Point], job: Job, device: str) -> Table:
    """A row for each setting."""
    assert job.cache is not None
    title = f"{job.cache.tag} with other thresholds and forecasts, on {device}"
    shown = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), title_style="bold")
    for name in ("forecast", "threshold", "cached steps", "block calls saved", "step time", "PSNR", "SSIM"):
        shown.add_column(name, justify="left" if name == "forecast" else "right", header_style="dim")
    for point in points:
        shown.add_row(
            point.forecast,
            f"{point.threshold:g}",
            f"{mean(point.cached):.1f}",
            f"{mean(point.saved):.1%}",
            f"{point.time:.2f} x",
            f"{mean(point.psnr):.1f} dB",
            f"{mean(point.ssim):.4f}",
        )
    return shown


def best(points: Sequence[Point]) -> str:
    """A sentence: which setting saves most and is good, and of those the one that is nearest to the exact picture."""
    good = [point for point in points if mean(point.psnr) >= GOOD]
    if not good:
        return f"No setting stays at {GOOD:g} dB or more; try lower thresholds, or more warm-up (--ws)."
    found = max(good, key=lambda point: (round(mean(point.saved), 3), mean(point.psnr)))
    return (
        f"Of those with {GOOD:g} dB or more, threshold {found.threshold:g} with forecast {found.forecast} saves most: "
        f"{mean(found.saved):.1%} of the block calls, at {mean(found.psnr):.1f} dB."
    )
