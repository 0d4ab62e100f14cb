"""Draw what a cache costs against what it saves, as a picture that a person can read."""

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from ditmesh.cli.bench.sweep import Point

COLOURS = {"none": "#52606d", "taylorseer": "#c2410c", "foca": "#0f766e", "dmd": "#6d28d9"}
MARKS = {"none": "o", "taylorseer": "s", "foca": "^", "dmd": "D"}
TITLES = {"none": "repeat what was added last", "taylorseer": "TaylorSeer", "foca": "FoCa", "dmd": "DMD"}


def plot(points: "Sequence[Point]", title: str, path: Path) -> None:
    """PSNR against the share of block calls that was left out, and against the time of a step; a line a forecast."""
    figure = Figure(figsize=(11, 4.8), dpi=130, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    figure.suptitle(f"{title}: quality against cost, by threshold", fontsize=13)
    for name in dict.fromkeys(point.forecast for point in points):
        own = [point for point in points if point.forecast == name and isfinite(mean(point.psnr))]
        quality = [mean(point.psnr) for point in own]
        style = {"color": COLOURS[name], "marker": MARKS[name], "markersize": 6, "label": TITLES[name]}
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
                color=COLOURS[name],
            )
    left.set_xlabel("block calls left out, %")
    left.set_ylabel("PSNR against the exact picture, dB")
    right.set_xlabel("time of the steps / time without a cache")
    for axes in (left, right):
        axes.grid(color="#e4e7eb")
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False, title="cached steps")
    figure.savefig(path)
