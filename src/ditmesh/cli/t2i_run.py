"""One rank of `ditmesh t2i`: load, share out, and let the factory draw."""

import inspect
import logging
import sys
from collections.abc import Container, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from rich.console import Console

import ditmesh
from ditmesh import DBCacheConfig
from ditmesh.batch.clerk import FAILURES, Tally
from ditmesh.batch.factory import Order, draw_all, keep_books, prepare_folder, show_all
from ditmesh.batch.files import RawRow, read_rows
from ditmesh.batch.folder import shared_folder
from ditmesh.batch.manifest import Manifest
from ditmesh.batch.pictures import Recipe, check_two_branches
from ditmesh.batch.rows import BadRow, GoodRow, check_rows, unused_columns
from ditmesh.batch.work_list import Place, WorkList
from ditmesh.cli.checks import diffusers_class
from ditmesh.cli.devices import device_of
from ditmesh.cli.job import World
from ditmesh.cli.load import path, told_in_a_line
from ditmesh.cli.t2i_job import BatchJob
from ditmesh.config import describe_groups
from ditmesh.runtime.terminal import shown


def check_call(job: BatchJob) -> Container[str]:
    """Refuse an argument that the pipeline's call does not take, or guidance it does not have.

    Returns:
        the names of the arguments it takes.
    """
    pipeline = job.facts.class_name
    takes = frozenset(inspect.signature(diffusers_class(pipeline).__call__).parameters)
    for name in sorted(job.asked):
        if name not in takes:
            raise ValueError(f"--{name}: a {pipeline} takes no {name}; leave it out.")
    is_distilled = any(part.config.get("guidance_embeds") for part in job.facts.transformers.values())
    if job.layout.cfg_size > 1 and is_distilled and "negative_prompt" not in takes:
        raise ValueError(
            f"guidance parallelism shares two branches between two ranks, and {job.model} is guidance-distilled: a "
            f"{pipeline} has no second one; use these ranks otherwise: ulysses, or data for two pictures at once"
        )
    if job.layout.cfg_size > 1 and job.prompt is not None:
        check_two_branches(job.call, takes, pipeline)
    return takes


def run(job: BatchJob, world: World, takes: Container[str], store: Any) -> int:
    """Do the job on this rank; every rank of the world must.

    Args:
        takes: the arguments of the pipeline's call.
        store: what all ranks share.

    Returns:
        the exit code: 1 if a row was not drawn, else 0.
    """
    first = world.rank == 0
    console = Console(stderr=True, quiet=not first, highlight=False)
    device = device_of(world)
    dtype = dtype_of(job, device)
    order = order_of(job, takes, dtype)
    work = WorkList(store, Place.of(world.rank, world.size, job.layout.dp_size))
    with kept_log(job, world):
        tell_job(job, console, device)
        manifest = prepare_folder(order, work) if first else None
        with shared_folder(order.folder, work, world.rank, others(world)):
            pipe = load(job, dtype, device)
            if manifest is None:
                draw_all(order, work, pipe)
                return 0
            tally = keep_books(order, work, pipe, manifest, console)
        return tell_end(order, tally, manifest)


def others(world: World) -> list[int]:
    """The first rank of each machine but that of rank 0."""
    return list(range(world.ranks_here, world.size, world.ranks_here))


def order_of(job: BatchJob, takes: Container[str], dtype: torch.dtype) -> Order:
    options = job.options
    recipe = Recipe(
        call=job.call,
        seed=job.seed,
        images=options.num_images_per_prompt or 1,
        takes=takes,
        title=job.facts.class_name,
        made_by=f"{job.model} {dtype}{lossy(job)}",
        two_branches=job.layout.cfg_size > 1,
    )
    return Order(
        rows=lambda: rows_of(job),
        recipe=recipe,
        folder=options.output_dir,
        model=job.model,
        layout=job.layout,
        batch_size=job.batch_size,
        resume=options.resume,
    )


def lossy(job: BatchJob) -> str:
    """What makes other pictures than one process draws, so that none of them is taken for one of those."""
    cached = " cache" if job.optimizations.cache else ""
    return cached + (f" patches {job.layout.patches} after {job.layout.warmup_steps}" if job.layout.is_lossy else "")


def rows_of(job: BatchJob) -> Iterator[GoodRow | BadRow]:
    if job.prompt is not None:
        return check_rows([RawRow(1, {"prompt": job.prompt})])
    assert job.options.prompts_file is not None
    return check_rows(read_rows(job.options.prompts_file))


def dtype_of(job: BatchJob, device: torch.device) -> torch.dtype:
    given = job.options.torch_dtype
    return vars(torch)[given or (job.example.dtype if device.type == "cuda" else "float32")]


def load(job: BatchJob, dtype: torch.dtype, device: torch.device) -> Any:
    """The pipeline, shared out over the ranks of this replica, on its device."""
    asked = job.optimizations
    if asked.tf32:
        torch.set_float32_matmul_precision("high")
    with told_in_a_line(job.model):
        pipe = diffusers_class(job.facts.class_name).from_pretrained(path(job.model), dtype=dtype)
    if asked.vae_tiling:
        pipe.vae.enable_tiling()
    if asked.vae_slicing:
        pipe.vae.enable_slicing()
    config = {
        "cache_config": DBCacheConfig() if asked.cache else None,
        "attention_backend": asked.kernel,
        # Replicas alone need no process group.
        "parallelism_config": job.layout if job.layout.world_size > job.layout.dp_size else None,
    }
    if any(value is not None for value in config.values()):
        ditmesh.enable_cache(pipe, **config)
    if asked.compile:
        for name in job.facts.transformers:
            pipe.components[name].compile_repeated_blocks()
    if asked.cpu_offload:
        pipe.enable_model_cpu_offload(device=device)
    else:
        pipe.to(device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@contextmanager
def kept_log(job: BatchJob, world: World) -> Iterator[None]:
    """What the library has to say: into a file for each rank, and with DG_DEBUG to the terminal."""
    logger = logging.getLogger("ditmesh")
    handlers: list[logging.Handler] = []
    if job.options.log_dir is not None:
        job.options.log_dir.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(job.options.log_dir / f"rank{world.rank}.log"))
    if job.debug:
        handlers.append(logging.StreamHandler())
    before = logger.level
    with ExitStack() as closing:
        for handler in handlers:
            handler.setFormatter(logging.Formatter(f"%(asctime)s rank {world.rank}: %(message)s", "%H:%M:%S"))
            logger.addHandler(handler)
            closing.callback(logger.removeHandler, handler)
            closing.callback(handler.close)
        if handlers:
            logger.setLevel(logging.DEBUG if job.debug else logging.INFO)
            closing.callback(logger.setLevel, before)
        yield


def tell_job(job: BatchJob, console: Console, device: torch.device) -> None:
    """Before loading: what is drawn with what, and which ranks form which group."""
    each = f", {job.batch_size} at once on each of {job.layout.dp_size} replicas" if job.layout.dp_size > 1 else ""
    lines = [f"{job.facts.class_name} of {job.model} on {job.layout.world_size} x {device.type}: {job.layout}{each}"]
    lines += describe_groups(job.layout) if job.layout.world_size > 1 else []
    lines += [f"note: {note}" for note in job.notes]
    if job.options.prompts_file is not None and (unused := unused_columns(read_rows(job.options.prompts_file))):
        lines.append(f"note: of {job.options.prompts_file} these columns are not used: {', '.join(unused)}")
    for line in lines:
        console.print(shown(line), soft_wrap=True, markup=False)
        logging.getLogger("ditmesh").info(line)


def tell_end(order: Order, tally: Tally, manifest: Manifest) -> int:
    """Say what was made and what was not; the exit code."""
    sheets = show_all(order.folder)
    kept = f", {tally.kept} kept" if tally.kept else ""
    print(f"{_count(tally.drawn, 'picture')} drawn{kept}: {shown(manifest.path)}")
    for made in sheets:
        print(f"saved {shown(made)}")
    if tally.is_whole:
        return 0
    lacking = [_count(tally.bad_rows, "bad row")] if tally.bad_rows else []
    lacking += [f"{_count(tally.failed, 'picture')} failed"] if tally.failed else []
    print(f"{' and '.join(lacking)}: {shown(order.folder / FAILURES)}", file=sys.stderr)
    return 1


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
