"""Draw what a cache costs against what it saves, as a picture that a person can read."""

from collections.abc import Sequence
from itertools import cycle
from math import isfinite
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from ditmesh.config import calibrators

if TYPE_CHECKING:
    from ditmesh.cli.bench.sweep import Point

LOOKS = (("#52606d", "o"), ("#c2410c", "s"), ("#0f766e", "^"), ("#6d28d9", "D"))  # of one forecast after the other


def plot(points: "Sequence[Point]", title: str, path: Path) -> None:
    """PSNR against the share of block calls that was left out, and against the time of a step; a line a forecast."""
    figure = Figure(figsize=(11, 4.8), dpi=130, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    figure.suptitle(f"{title}: quality against cost, by threshold", fontsize=13)
    titles = {name: kind.title for name, kind in calibrators().items()} | {"none": "repeat what was added last"}
    for name, (colour, mark) in zip(dict.fromkeys(point.forecast for point in points), cycle(LOOKS), strict=False):
        own = [point for point in points if point.forecast == name and isfinite(mean(point.psnr))]
        quality = [mean(point.psnr) for point in own]
        style = {"color": colour, "marker": mark, "markersize": 6, "label": titles[name]}
        left.plot([100 * mean(point.saved) for point in own], quality, **style)
        right.plot([point.time for point in own], quality, **style)
        # The thresholds of the first forecast stand below its line, those of the others above theirs.
        first = name == points[0].forecast
        for point, height in zip(own, quality, strict=True):
            left.annotate(
                f"{point.threshold:g}",
                (100 * mean(point.saved), height),
                xytext=(-6, -6) if first else (6, 6),
                textcoords="offset points",
                ha="right" if first else "left",
                va="top" if first else "bottom",
                fontsize=8,
                color=colour,
            )
    left.set_xlabel("block calls left out, %")
    left.set_ylabel("PSNR against the exact picture, dB")
    right.set_xlabel("time of the steps / time without a cache")
    for axes in (left, right):
        axes.grid(color="#e4e7eb")
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False, title="cached steps")
    figure.savefig(path)
