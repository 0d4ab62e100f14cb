"""What `generate` prints before and after a run: what was asked, and what it cost."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ditmesh.cli.generate.job import warmups
from ditmesh.cli.generate.options import Options
from ditmesh.job.call import given
from ditmesh.job.description import Job
from ditmesh.runtime.terminal import shown

RUNS = {"model": "part", "block_level": "block", "leaf_level": "layer", "sequential": "layer"}  # by what is offloaded


def print_facts(console: Console, title: str, facts: Mapping[str, object]) -> None:
    """A title, and under it one line of name and value for each fact."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(f"  {name}", escape(shown(value, lines=True)))
    console.print(title, style="bold")
    console.print(table)


def init_facts(job: Job, options: Options, dtype: str, whole: Sequence[str]) -> dict[str, Any]:
    """What is loaded and how; ``whole`` has a line for each module that is not shared though it was asked for."""
    transformers = ", ".join(facts.class_name for facts in job.facts.transformers.values())
    facts = {
        "model": job.model,
        "pipeline": f"{job.example.pipeline} with {transformers}",
        **{part.name: part.source for part in job.parts},
        "LoRA": job.lora and f"{job.lora.file}, {'fused' if job.lora.fuse else 'not fused'}",
        "dtype": dtype,
        "quantized": job.quantized and f"{job.quantized.kind}: {', '.join(job.quantized.components)}",
        "layout": job.layout,
        "weights": "those that ranks would each hold whole are shared out" if job.layout.shard_weights else "",
        "shared too": ", ".join(shared(job, whole)),
        "kept whole": "\n".join(whole),
        "cache": job.cache and job.cache.tag,
        "attention": job.kernel,
        "memory": job.tuning.offload and f"only the {RUNS[job.tuning.offload]} that runs is on the GPU",
        "compiled": "the transformers' repeated blocks" if options.compile else "",
        "runs": f"{warmups(options, job.example)} to warm up, {options.repeat} timed",
    }
    changed = given(steps=options.warmup_steps, prompt=options.warmup_prompt, seed=options.warmup_seed)
    told = ", ".join(f"{name} {value!r}" for name, value in changed.items())
    return {name: fact for name, fact in facts.items() if fact} | ({"warm-up": told} if told else {})


def shared(job: Job, whole: Sequence[str]) -> list[str]:
    """The components that are really shared beside the transformer."""
    classes = {line.split(":")[0] for line in whole}
    return [name for name in job.layout.extra_parallel_modules if job.facts.components.get(name) not in classes]


def input_facts(job: Job) -> dict[str, Any]:
    seed = f"{job.seed} ({job.noise_device} generator)"
    return {**{name: _shown(value) for name, value in job.call.items()}, "seed": seed}


def _shown(value: object) -> Any:
    if isinstance(value, Image.Image):
        return f"{value.mode} image, {value.height}x{value.width}"
    if isinstance(value, list) and any(isinstance(item, Image.Image) for item in value):
        return ", ".join(_shown(item) for item in value)
    return repr(value) if isinstance(value, str) else value


def output_facts(
    job: Job,
    lossy: str,
    device: str,
    with_it: Sequence[str],
    load_seconds: float,
    warmup_seconds: Sequence[float],
    seconds: Sequence[float],
) -> dict[str, Any]:
    """What was done and how long it took.

    Args:
        lossy: the tag of the cache or of the patches, or "".
        with_it: the components shared beside the transformer.
    """
    done = f"{job.layout} with {', '.join(with_it)} shared" if with_it else str(job.layout)
    mean = f"{statistics.mean(seconds):.2f} s"
    if len(seconds) > 1:
        mean += f" (mean of {len(seconds)}: {min(seconds):.2f} to {max(seconds):.2f} s)"
    return {
        "model": job.example.name,
        "optimization": f"{done}, {lossy}" if lossy else done,
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
        console.print(f"saved {shown(path)}", soft_wrap=True, markup=False, highlight=False)
