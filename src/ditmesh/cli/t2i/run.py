"""One rank of `ditmesh t2i`: load, share out, and let the factory draw."""

import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from rich.console import Console

from ditmesh.batch.clerk import FAILURES, Tally
from ditmesh.batch.factory import Order, draw_all, keep_books, prepare_folder
from ditmesh.batch.files import RawRow, read_rows
from ditmesh.batch.folder import shared_folder
from ditmesh.batch.manifest import Manifest
from ditmesh.batch.pictures import Recipe
from ditmesh.batch.rows import BadRow, GoodRow, check_rows, unused_columns
from ditmesh.batch.sheet import show
from ditmesh.batch.work_list import Place, WorkList
from ditmesh.cli.t2i.job import Batch
from ditmesh.config import describe_groups
from ditmesh.job import load
from ditmesh.job.classes import taken_arguments
from ditmesh.job.description import Job
from ditmesh.job.devices import device_of, dtype_of
from ditmesh.runtime.terminal import shown
from ditmesh.runtime.world import World


def run(batch: Batch, job: Job, world: World, store: object) -> int:
    """Do the job on this rank; every rank of the world must.

    Args:
        store: what all ranks share.

    Returns:
        the exit code: 1 if a row was not drawn, else 0.
    """
    first = world.rank == 0
    console = Console(stderr=True, quiet=not first, highlight=False)
    device = device_of(world)
    dtype = dtype_of(job, device)
    order = order_of(batch, job, dtype)
    work = WorkList(store, Place.of(world.rank, world.size, job.layout.dp_size))
    with kept_log(batch, world):
        tell_job(batch, console, device)
        manifest = prepare_folder(order, work) if first else None
        with shared_folder(order.folder, work, world.rank, others(world)):
            pipe, _ = load.prepare(job, dtype, device)
            pipe.set_progress_bar_config(disable=True)
            if manifest is None:
                draw_all(order, work, pipe)
                return 0
            tally = keep_books(order, work, pipe, manifest, console)
        return tell_end(order, tally, manifest)


def others(world: World) -> list[int]:
    """The first rank of each machine but that of rank 0."""
    return list(range(world.ranks_here, world.size, world.ranks_here))


def order_of(batch: Batch, job: Job, dtype: torch.dtype) -> Order:
    options = batch.options
    recipe = Recipe(
        call={name: value for name, value in job.call.items() if name != "prompt"},
        seed=job.seed,
        images=options.num_images_per_prompt or 1,
        takes=taken_arguments(job),
        title=job.example.pipeline,
        made_by=f"{job.model} {dtype}{lossy(job)}",
        two_branches=job.layout.cfg_size > 1,
        smallest_side=job.facts.smallest_side,
    )
    return Order(lambda: rows_of(batch), job, recipe, options.output_dir, batch.batch_size, options.resume)


def lossy(job: Job) -> str:
    """What makes other pictures than one process draws, so that none of them is taken for one of those."""
    made = (job.cache and job.cache.tag, job.lora and job.lora.file.name, job.quantized and job.quantized.tag)
    changed = "".join(f" {thing}" for thing in made if thing)
    return changed + (f" patches {job.layout.patches} after {job.layout.warmup_steps}" if job.layout.is_lossy else "")


def rows_of(batch: Batch) -> Iterator[GoodRow | BadRow]:
    if batch.prompt is not None:
        return check_rows([RawRow(1, {"prompt": batch.prompt})])
    assert batch.options.prompts_file is not None
    return check_rows(read_rows(batch.options.prompts_file))


@contextmanager
def kept_log(batch: Batch, world: World) -> Iterator[None]:
    """What the library has to say: into a file for each rank, and with DG_DEBUG to the terminal."""
    logger = logging.getLogger("ditmesh")
    handlers: list[logging.Handler] = []
    if batch.options.log_dir is not None:
        batch.options.log_dir.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(batch.options.log_dir / f"rank{world.rank}.log"))
    if batch.debug:
        handlers.append(logging.StreamHandler())
    before = logger.level
    with ExitStack() as closing:
        for handler in handlers:
            handler.setFormatter(logging.Formatter(f"%(asctime)s rank {world.rank}: %(message)s", "%H:%M:%S"))
            logger.addHandler(handler)
            closing.callback(logger.removeHandler, handler)
            closing.callback(handler.close)
        if handlers:
            logger.setLevel(logging.DEBUG if batch.debug else logging.INFO)
            closing.callback(logger.setLevel, before)
        yield


def tell_job(batch: Batch, console: Console, device: torch.device) -> None:
    """Before loading: what is drawn with what, and which ranks form which group."""
    job, file = batch.job, batch.options.prompts_file
    each = f", {batch.batch_size} at once on each of {job.layout.dp_size} replicas" if job.layout.dp_size > 1 else ""
    lines = [f"{job.example.pipeline} of {job.model} on {job.layout.world_size} x {device.type}: {job.layout}{each}"]
    lines += describe_groups(job.layout) if job.layout.world_size > 1 else []
    lines += [f"note: {note}" for note in batch.notes]
    if file is not None and (unused := unused_columns(read_rows(file))):
        lines.append(f"note: of {file} these columns are not used: {', '.join(unused)}")
    for line in lines:
        console.print(shown(line), soft_wrap=True, markup=False)
        logging.getLogger("ditmesh").info(line)


def tell_end(order: Order, tally: Tally, manifest: Manifest) -> int:
    """Say what was made and what was not; the exit code."""
    sheets = show(order.folder)
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
