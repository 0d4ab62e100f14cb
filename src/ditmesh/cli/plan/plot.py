"""Memory against time of all layouts that fit, as a picture, with the frontier marked."""

from pathlib import Path

from matplotlib.figure import Figure

from ditmesh.planner.peaks import gib
from ditmesh.planner.plan import Estimate, Plan


def frontier(points: list[Estimate]) -> list[Estimate]:
    """Those that no other beats both in memory and in time, by memory."""
    kept: list[Estimate] = []
    for one in sorted(points, key=_place):
        if not kept or _place(one)[1] < _place(kept[-1])[1]:
            kept.append(one)
    return kept


def _place(one: Estimate) -> tuple[float, float]:
    assert one.memory is not None
    assert one.seconds is not None
    return gib(one.memory.total), one.seconds.total


def plot(plan: Plan, path: Path) -> None:
    """Write the picture."""
    points = [one for one in plan.estimates if one.memory is not None]
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    for fits, colour, label in ((True, "tab:blue", "fits"), (False, "tab:red", "does not fit")):
        places = [_place(one) for one in points if one.fits is fits]
        if places:
            axes.scatter(*zip(*places, strict=True), color=colour, label=label, zorder=3)
    best = frontier([one for one in points if one.fits])
    if best:
        axes.plot(
            *zip(*map(_place, best), strict=True), color="tab:blue", linewidth=1, label="nothing is better in both"
        )
    for one in points:
        axes.annotate(str(one.layout), _place(one), textcoords="offset points", xytext=(5, 4), fontsize=7)
    axes.axvline(
        gib(plan.device.memory), color="tab:red", linestyle="--", linewidth=1, label=f"memory of {plan.device.name}"
    )
    axes.set(
        xlabel="GiB of one device, predicted",
        ylabel="seconds, predicted",
        title=f"{plan.job.example.name} on {plan.devices} x {plan.device.name}",
    )
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
