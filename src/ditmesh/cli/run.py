"""One rank of a job: load, share out, warm up, draw, save, and compare if asked."""

import difflib
import gc
import inspect
import time
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import torch.distributed as dist
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from rich.console import Console

import ditmesh
from ditmesh.cli import output, summary, verify
from ditmesh.cli.devices import device_of, name_of
from ditmesh.cli.job import OURS, Job, World
from ditmesh.cli.memory import PhasePeaks, gauge_for
from ditmesh.launch import cores


def check_call(job: Job) -> None:
    """Refuse an argument that the pipeline's call does not take, before any weight is read."""
    pipeline = getattr(diffusers, job.facts.class_name)  # diffusers' namespace loads its classes on demand
    takes = [name for name in inspect.signature(pipeline.__call__).parameters if name not in ("self", *OURS)]
    for name in job.asked:
        if name not in takes:
            close = difflib.get_close_matches(name, takes, n=1)
            cure = f"did you mean {close[0]}?" if close else f"leave it out, or use one of {', '.join(takes)}."
            raise ValueError(f"{job.facts.class_name} takes no {name}; {cure}")


def run(job: Job, world: World) -> int:
    """Do the job on this rank; every rank of the world must.

    Returns:
        the exit code: 1 when --verify finds more than rounding, else 0.
    """
    first = world.rank == 0
    device = device_of(world)
    dtype = vars(torch)[job.example.dtype] if device.type == "cuda" else torch.float32
    console = Console(quiet=not first, highlight=False)
    peaks = PhasePeaks(gauge_for(device)) if job.track_memory else None

    started = time.perf_counter()
    if peaks:
        peaks.begin("load")
    pipe = share_out(load(job, dtype), job).to(device)
    if peaks:
        peaks.begin(None)
    load_seconds = time.perf_counter() - started
    summary.print_facts(console, "Init Config", summary.init_facts(job, str(dtype)))
    summary.print_facts(console, "Input", summary.input_facts(job))

    warmups = [timed(pipe, job, peaks, first, "warm-up", job.warmup_steps)[0] for _ in range(job.warmup)]
    drawn = [timed(pipe, job, peaks, first, "drawing") for _ in range(job.repeat)]
    films = drawn[-1][1]
    ranks = gather(peaks.peaks) if peaks else []
    del pipe
    leave_ranks()
    if not first:
        return 0

    facts = summary.output_facts(job, name_of(device), load_seconds, warmups, [seconds for seconds, _ in drawn])
    summary.print_facts(console, "Output", facts)
    if peaks:
        summary.print_memory(console, peaks.gauge.title, ranks)
    path = job.save_path or output.default_path(job.example.name, films, str(job.layout), job.example.suffixes[0])
    summary.print_files(console, output.save(films, path, job.fps))
    return verify_run(job, films, path, device, dtype, console) if job.verify else 0


def load(job: Job, dtype: torch.dtype) -> Any:
    folder = Path(job.model).expanduser()
    pipe = DiffusionPipeline.from_pretrained(folder if folder.is_dir() else job.model, dtype=dtype)
    if job.vae_tiling:
        pipe.vae.enable_tiling()
    if job.vae_slicing:
        pipe.vae.enable_slicing()
    return pipe


def share_out(pipe: Any, job: Job) -> Any:
    """Apply the layout and the attention kernel; a pipeline with neither stays as it was loaded."""
    if job.layout.world_size > 1:
        return ditmesh.enable_cache(pipe, parallelism_config=job.layout, attention_backend=job.attn)
    if job.attn:
        return ditmesh.enable_cache(pipe, attention_backend=job.attn)
    return pipe


def timed(
    pipe: Any, job: Job, peaks: PhasePeaks | None, show: bool, title: str, steps: int | None = None
) -> tuple[float, np.ndarray]:
    """One run: its seconds, and what it drew."""
    pipe.set_progress_bar_config(disable=not show, desc=title)
    if dist.is_initialized():
        dist.barrier()
    started = time.perf_counter()
    if peaks:
        with peaks.of_call(pipe):
            films = draw(pipe, job, steps)
    else:
        films = draw(pipe, job, steps)
    return time.perf_counter() - started, films


def draw(pipe: Any, job: Job, steps: int | None = None) -> np.ndarray:
    """Call the pipeline; [batch, frames, height, width, 3] in [0, 1], not rounded to bytes."""
    call = dict(job.call) | ({"num_inference_steps": steps} if steps else {})
    noise = torch.Generator(job.generator_device).manual_seed(job.seed)
    drawn = pipe(**call, generator=noise, output_type="np")
    films = np.asarray(drawn.frames if job.example.frames else drawn.images[:, None])
    if not np.isfinite(films).all():
        raise ValueError(f"{job.model} drew values that are no numbers, so there is no picture; check its weights.")
    return films


def gather(mine: dict[str, int]) -> list[dict[str, int]]:
    """Every rank's peaks, in the order of the ranks."""
    if not dist.is_initialized():
        return [mine]
    ranks: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(ranks, mine)
    return ranks


def leave_ranks() -> None:
    """End the work that is shared: what rank 0 does from here on, no other rank has to wait for."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def verify_run(
    job: Job, films: np.ndarray, path: Path, device: torch.device, dtype: torch.dtype, console: Console
) -> int:
    """Draw it again with a bare pipeline in this one process, and compare."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    else:
        torch.set_num_threads(cores())  # the other ranks are gone
    pipe = load(job, dtype).to(device)
    _, reference = timed(pipe, job, None, True, "one process")
    result = verify.compare(films, reference)
    console.print(f"verify: {result}  ({job.layout} against one process)", soft_wrap=True)
    sheet = path.with_suffix(".verify.png")
    verify.side_by_side(films, reference, f"{job.layout}, {job.layout.world_size} ranks").save(sheet)
    summary.print_files(console, [sheet])
    if dtype == torch.float32 and not result.difference <= verify.BOUND:
        console.print(
            f"warning: {result.difference:.1e} is more than rounding; {job.layout} should stay within {verify.BOUND:g}",
            style="bold red",
            soft_wrap=True,
        )
        return 1
    return 0
