"""Hold the planner against figures that others published: a table, and the errors as they are.

    python -m benchmarks.plan                 # print it
    python -m benchmarks.plan --write         # put it into docs/planner.md

Nothing is measured here: both numbers of a row are of machines that are elsewhere.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from ditmesh.cli.plan.job import describe_plan
from ditmesh.cli.plan.options import PlanOptions
from ditmesh.config import ParallelismConfig
from ditmesh.planner.dry_run import as_found
from ditmesh.planner.layouts import with_layout
from ditmesh.planner.peaks import gib
from ditmesh.planner.plan import Estimate
from ditmesh.planner.search import look

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "planner.md"
BEGIN, END = "<!-- printed by benchmarks/plan.py -->", "<!-- end -->"
OOM = "OOM"
PURPOSES = {
    "fit": "fractions were fitted on this",
    "launch": "the time of a launch was chosen with a look at this",
    "judge": "judged only",
}


def predicted(plan: dict[str, Any], layouts: Sequence[str]) -> dict[str, Estimate]:
    """The estimates of these layouts."""
    job, ask = describe_plan(PlanOptions(**plan))
    jobs = [with_layout(job, ParallelismConfig.parse(name), ask.text, ask.vae, ask.shard) for name in layouts]
    found = look(jobs, ask, as_found)
    return {name: found[place] for place, name in enumerate(layouts)}


def error(found: float, published: float) -> str:
    return f"{100 * (found / published - 1):+.0f} %"


def row(one: Estimate, layout: str, seconds: Any, size: Any, time: str) -> str:
    """A line of the table: what was published, what is predicted, and by how much it is off."""
    if one.memory is None or one.seconds is None:
        return f"| {layout} | {seconds} | – | | {size or ''} | – | – | {one.refused} |"
    took = one.seconds.denoise if time == "denoise" else one.seconds.total
    if seconds == OOM or not one.fits:
        told = "OOM" if not one.fits else f"{took:.2f}"
        hit = "as published" if (seconds == OOM) is not one.fits else "wrong"
        return f"| {layout} | {seconds} | {told} | {hit} | | | {gib(one.memory.total):.1f} | |"
    total = gib(one.memory.total)
    sizes = f"{size} | {gib(one.memory.allocated):.2f} | {total:.2f} | {error(total, size)}" if size else " | | | "
    return f"| {layout} | {seconds} | {took:.2f} | {error(took, seconds)} | {sizes} |"


def ranks(values: Sequence[float]) -> list[int]:
    order = sorted(range(len(values)), key=lambda i: values[i])
    return [order.index(i) for i in range(len(values))]


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """The correlation of the orders of two lists without ties."""
    n, (x, y) = len(a), (ranks(a), ranks(b))
    return 1 - 6 * sum((i - j) ** 2 for i, j in zip(x, y, strict=True)) / (n * (n * n - 1))


def table(entry: dict[str, Any]) -> Iterator[str]:
    """One published table and what the planner says."""
    time = entry.get("time", "total")
    found = predicted(entry["plan"], [layout for layout, *_ in entry["rows"]])
    yield f"### {entry['title']}"
    yield ""
    purpose = PURPOSES[entry["used"]]
    yield f"{entry['source']}; {purpose}."
    yield ""
    yield "| layout | published s | predicted s | error | published GiB | predicted, tensors | in all | error |"
    yield "|---|---|---|---|---|---|---|---|"
    timed = list[tuple[float, float]]()
    for layout, seconds, size in entry["rows"]:
        one = found[layout]
        yield row(one, layout, seconds, size, time)
        if seconds != OOM and one.fits and one.seconds is not None:
            timed.append((seconds, one.seconds.denoise if time == "denoise" else one.seconds.total))
    if len(timed) > 3:
        yield ""
        yield f"Order of seconds, Spearman: {spearman(*zip(*timed, strict=True)):.2f}."
    yield ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="put the tables into docs/planner.md")
    parser.add_argument("--only", default="", help="tables whose title has this in it")
    asked = parser.parse_args()
    entries = yaml.safe_load((HERE / "published.yaml").read_text())
    lines = list[str]()
    for entry in entries:
        if asked.only in entry["title"]:
            for line in table(entry):
                lines.append(line)
                print(line, flush=True)
    if asked.write:
        page = PAGE.read_text("utf-8")
        before, _, rest = page.partition(BEGIN)
        PAGE.write_text("\n".join([f"{before}{BEGIN}", "", *lines, END]) + rest.partition(END)[2], "utf-8")


if __name__ == "__main__":
    main()
