"""One rank of a job: load, share out, warm up, draw, save, and compare if asked."""

import gc
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console

import ditmesh
from ditmesh.api import leave_ranks
from ditmesh.cli.generate import output, summary, verify
from ditmesh.cli.generate.job import warmup_call, warmups
from ditmesh.cli.generate.memory import PhasePeaks, peaks_for
from ditmesh.cli.generate.options import Options
from ditmesh.job import load
from ditmesh.job.description import Job
from ditmesh.job.devices import device_of, dtype_of, name_of
from ditmesh.job.draw import Drawn, draw
from ditmesh.job.picture import facts_of
from ditmesh.runtime.launch import cores
from ditmesh.runtime.world import World


def run(job: Job, options: Options, world: World) -> int:
    """Do the job on this rank; every rank of the world must.

    Returns:
        the exit code: 1 when --verify finds more than rounding, else 0.
    """
    first = world.rank == 0
    device = device_of(world)
    dtype = dtype_of(job, device)
    console = Console(quiet=not first, highlight=False)
    peaks = peaks_for(device) if options.track_memory else None

    started = time.perf_counter()
    if peaks:
        peaks.begin("load")
    pipe, whole = load.prepare(job, dtype, device)
    if peaks:
        peaks.begin(None)
    load_seconds = time.perf_counter() - started
    print_job(console, job, options, dtype, whole)
    warm, seed = warmup_call(options, job)
    warmed = [timed(pipe, job, warm, seed, peaks, first, "warm-up")[0] for _ in range(warmups(options, job.example))]
    drawn = [timed(pipe, job, job.call, job.seed, peaks, first, "drawing") for _ in range(options.repeat)]
    result = drawn[-1][1]
    ranks = gather(peaks.peaks) if peaks else []
    lossy = lossy_tag(pipe, job, first and options.cache_summary)
    if dist.is_initialized():
        dist.barrier()  # what rank 0 does from here on, no other rank has to wait for
    del pipe
    leave_ranks()
    if not first:
        return 0

    seconds = [seconds for seconds, _ in drawn]
    with_it = summary.shared(job, whole)
    facts = summary.output_facts(job, lossy, name_of(device), with_it, load_seconds, warmed, seconds)
    summary.print_facts(console, "Output", facts)
    if peaks:
        summary.print_memory(console, peaks.gauge.title, ranks)
    made_by = ".".join(filter(None, (str(job.layout), job.quantized and job.quantized.tag, lossy)))
    path = options.save_path or output.default_path(job.example.name, result.films, made_by, job.example.suffixes[0])
    made = facts_of(job, job.call, job.seed)
    fps = options.fps or job.example.fps
    summary.print_files(console, output.save(result.films, path, fps, result.sound, result.rate, made))
    return verify_run(job, lossy, result, path, device, console) if options.verify else 0


def look(job: Job, options: Options, world: World) -> int:
    """Say what would be drawn with what; nothing is loaded."""
    console = Console(quiet=world.rank != 0, highlight=False)
    print_job(console, job, options, dtype_of(job, device_of(world)), ())
    console.print("nothing was loaded")
    return 0


def print_job(console: Console, job: Job, options: Options, dtype: torch.dtype, whole: Sequence[str]) -> None:
    summary.print_facts(console, "Init Config", summary.init_facts(job, options, str(dtype), whole))
    summary.print_facts(console, "Input", summary.input_facts(job))


def timed(
    pipe: Any, job: Job, call: Mapping[str, Any], seed: int, peaks: PhasePeaks | None, show: bool, title: str
) -> tuple[float, Drawn]:
    """One run: its seconds, and what it drew."""
    pipe.set_progress_bar_config(disable=not show, desc=title)
    if dist.is_initialized():
        dist.barrier()
    started = time.perf_counter()
    with peaks.of_call(pipe) if peaks else nullcontext():
        drawn = draw(pipe, job, call, seed)
    return time.perf_counter() - started, drawn


def lossy_tag(pipe: object, job: Job, show: bool) -> str:
    """What makes the result differ: patches, or the cache with its cached steps, shown as a table if that was asked."""
    if job.layout.is_lossy:
        return f"M{job.layout.patches}_W{job.layout.warmup_steps}"
    if job.cache is None:
        return ""
    stats = ditmesh.summary(pipe, logging=show)
    return f"{job.cache.tag}_S{max(len(one.cached_steps) for one in stats)}"


def gather(mine: dict[str, int]) -> list[dict[str, int]]:
    """Every rank's peaks, in the order of the ranks."""
    if not dist.is_initialized():
        return [mine]
    ranks: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(ranks, mine)
    return ranks


def verify_run(job: Job, lossy: str, result: Drawn, path: Path, device: torch.device, console: Console) -> int:
    """Draw it again with a bare pipeline in this one process, and compare; a cache and patches may differ.

    Quantized weights are so in that pipeline too, and then it is drawn once more without.
    """
    if device.type != "cuda" and job.layout.world_size > 1:
        torch.set_num_threads(cores())  # the other ranks are gone
    reference = drawn_alone(job, device, "one process")
    found = verify.compare(result.films, reference.films, result.sound, reference.sound)
    ours = " with ".join(filter(None, (str(job.layout), job.quantized and job.quantized.tag, lossy)))
    console.print(f"verify: {found}  ({ours} against one process)", soft_wrap=True)
    sheet = path.with_suffix(".verify.png")
    label = f"{job.layout}, {lossy}" if lossy else f"{job.layout}, {job.layout.world_size} ranks"
    verify.side_by_side(result.films, reference.films, label).save(sheet)
    summary.print_files(console, [sheet])
    if job.quantized:
        plain = drawn_alone(replace(job, quantized=None), device, "unquantized")
        lost = verify.compare(reference.films, plain.films, reference.sound, plain.sound)
        console.print(f"verify: {lost}  ({job.quantized.tag} against weights that are not quantized)", soft_wrap=True)
    rounds = lossy or dtype_of(job, device) != torch.float32 or (job.quantized and job.quantized.rounds_inputs)
    if not rounds and not found.largest <= verify.BOUND:
        console.print(
            f"warning: {found.largest:.1e} is more than rounding; {job.layout} should stay within {verify.BOUND:g}",
            style="bold red",
            soft_wrap=True,
        )
        return 1
    return 0


def drawn_alone(job: Job, device: torch.device, title: str) -> Drawn:
    """What one process draws with a bare pipeline."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    pipe = load.load_bare(job, dtype_of(job, device))
    load.place(pipe, job, device)
    return timed(pipe, job, job.call, job.seed, None, True, title)[1]
