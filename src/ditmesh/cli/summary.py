"""What `generate` prints: the list of examples, and before and after a run what was asked and what it cost."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ditmesh.cli.examples import EXAMPLES
from ditmesh.cli.job import Job


def print_examples() -> None:
    """One row for each example; wide cells fold rather than vanish."""
    console = Console()
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("EXAMPLE", no_wrap=True, style="bold")
    table.add_column("MODEL", overflow="fold")
    table.add_column("SIZE", no_wrap=True)
    table.add_column("STEPS", justify="right")
    table.add_column("CFG", justify="right")
    for example in EXAMPLES.values():
        model = "ships with ditmesh" if example.folder_variable is None else example.model
        guidance = "" if example.guidance is None else f"{example.guidance:g}"
        table.add_row(example.name, model, example.size, str(example.steps), guidance)
    console.print(table)
    console.print("--model-path, or a variable such as FLUX_DIR, names a local copy of a model.", style="dim")


def print_facts(console: Console, title: str, facts: Mapping[str, Any]) -> None:
    """A title, and under it one line of name and value for each fact."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(f"  {name}", str(value))
    console.print(title, style="bold")
    console.print(table)


def init_facts(job: Job, dtype: str) -> dict[str, Any]:
    transformers = ", ".join(facts.class_name for facts in job.facts.transformers.values())
    return {
        "model": job.model,
        "pipeline": f"{job.facts.class_name} with {transformers}",
        "dtype": dtype,
        "layout": job.layout,
        **({"attention": job.attn} if job.attn else {}),
        "runs": f"{job.warmup} to warm up, {job.repeat} timed",
    }


def input_facts(job: Job) -> dict[str, Any]:
    texts = {name: repr(value) if isinstance(value, str) else value for name, value in job.call.items()}
    return {**texts, "seed": f"{job.seed} ({job.generator_device} generator)"}


def output_facts(
    job: Job, device: str, load_seconds: float, warmup_seconds: Sequence[float], seconds: Sequence[float]
) -> dict[str, Any]:
    mean = f"{statistics.mean(seconds):.2f} s"
    if len(seconds) > 1:
        mean += f" (mean of {len(seconds)}: {min(seconds):.2f} to {max(seconds):.2f} s)"
    return {
        "model": job.example.name,
        "optimization": job.layout,
        "device": f"{device} x {job.layout.world_size}",
        "load time": f"{load_seconds:.2f} s",
        "warmup time": f"{sum(warmup_seconds):.2f} s" if warmup_seconds else "none",
        "inference time": mean,
    }


def print_memory(console: Console, title: str, ranks: Sequence[Mapping[str, int]]) -> None:
    """A row for each rank, a column for each phase; bytes in, GiB out."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("  rank", justify="right", header_style="dim")
    for phase in ranks[0]:
        table.add_column(phase, justify="right", header_style="dim")
    for rank, peaks in enumerate(ranks):
        table.add_row(str(rank), *(f"{peak / 1024**3:.2f}" for peak in peaks.values()))
    console.print(title, style="bold")
    console.print(table)


def print_files(console: Console, paths: Sequence[Path]) -> None:
    for path in paths:
        console.print(f"saved {path}", soft_wrap=True, highlight=False)
