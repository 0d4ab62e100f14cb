"""`ditmesh t2i` at work: check what diffusers knows while the replicas load, and let the factory draw."""

import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from queue import SimpleQueue

from rich.console import Console

from ditmesh.batch.books import Tally, opened
from ditmesh.batch.factory import Factory, Order, check_folder, judged
from ditmesh.batch.files import RawRow, read_rows
from ditmesh.batch.folder import FAILURES, held
from ditmesh.batch.manifest import Manifest
from ditmesh.batch.pictures import Picture, Recipe
from ditmesh.batch.rows import BadRow, GoodRow, check_rows, unused_columns
from ditmesh.batch.sheet import show
from ditmesh.batch.writer import remove_unfinished
from ditmesh.cli.ranks import refusals
from ditmesh.cli.t2i.job import Batch
from ditmesh.config import describe_groups
from ditmesh.job.description import Job
from ditmesh.job.fingerprint import fingerprint
from ditmesh.replicas.requests import Event, Judged
from ditmesh.replicas.supervisor import Supervisor
from ditmesh.runtime.terminal import shown
from ditmesh.runtime.world import World


def draw(batch: Batch, supervisor: Supervisor, events: "SimpleQueue[Event]") -> int:
    """Draw all of it; the exit code: 1 if a row was not drawn, else 0."""
    console = Console(stderr=True, highlight=False)
    found = judged(supervisor)
    order = order_of(batch, found)
    with ExitStack() as closing:
        tell_job(batch, found, console)
        with refusals(World()):
            closing.enter_context(held(order.folder))
            manifest = Manifest(order.folder)
            check_folder(order, manifest)
        remove_unfinished(order.folder)
        with opened(order.folder, console) as books:
            Factory(order, manifest, books, events).draw(supervisor)
        manifest.finish()
        return tell_end(order, books.tally, manifest)


def look(batch: Batch) -> int:
    """Say what would be drawn, and load nothing; the exit code: 1 if a row cannot be drawn, else 0."""
    console = Console(stderr=True, highlight=False)
    # Imported here: with them come transformers and diffusers, which draw() has no use for.
    from ditmesh.cli.quiet import quiet_imports

    quiet_imports()
    from ditmesh.replicas.drawing import judge

    _, found = judge(batch.job, World())
    order = order_of(batch, found)
    tell_job(batch, found, console)
    with refusals(World()):
        check_folder(order, Manifest(order.folder))
    tally = Tally()
    for item in order.pictures():
        if isinstance(item, Picture):
            tally.drawn += 1
        else:
            tally.bad_rows += 1
            console.print(shown(f"line {item.line}: {item.why}"), soft_wrap=True, markup=False)
    bad = f", and {_count(tally.bad_rows, 'bad row')}" if tally.bad_rows else ""
    print(f"{_count(tally.drawn, 'picture')} for {shown(order.folder)}{bad}; nothing was loaded")
    return 0 if tally.is_whole else 1


def order_of(batch: Batch, found: Judged) -> Order:
    """What is to be drawn, or the refusal of a job that cannot be done."""
    job, options = batch.job, batch.options
    with refusals(World()):
        if found.refusal:
            raise ValueError(found.refusal)
        made_by = f"{fingerprint(job.model, job.facts.components)} {found.dtype}{lossy(job)}"
    recipe = Recipe(
        call={name: value for name, value in job.call.items() if name != "prompt"},
        seed=job.seed,
        images=options.num_images_per_prompt or 1,
        takes=found.takes,
        title=job.example.pipeline,
        made_by=made_by,
        two_branches=job.layout.cfg_size > 1,
        smallest_side=job.facts.smallest_side,
    )
    return Order(
        lambda: rows_of(batch),
        job,
        recipe,
        options.output_dir,
        batch.replicas.stop - 1,
        batch.batch_size,
        options.resume,
        options.overwrite or not options.resume,
    )


def lossy(job: Job) -> str:
    """What makes other pictures than one process draws, so that none of them is taken for one of those."""
    lora = job.lora and fingerprint(str(job.lora.file))
    changed = "".join(
        f" {thing}" for thing in (job.cache and job.cache.tag, lora, job.quantized and job.quantized.tag) if thing
    )
    return changed + (f" patches {job.layout.patches} after {job.layout.warmup_steps}" if job.layout.is_lossy else "")


def rows_of(batch: Batch) -> Iterator[GoodRow | BadRow]:
    if batch.prompt is not None:
        return check_rows([RawRow(1, {"prompt": batch.prompt})])
    assert batch.options.prompts_file is not None
    return check_rows(read_rows(batch.options.prompts_file))


def tell_job(batch: Batch, found: Judged, console: Console) -> None:
    """What is drawn with what, and which ranks form which group."""
    job, layout, file = batch.job, batch.job.layout, batch.options.prompts_file
    each = f", {batch.batch_size} at once on each of {layout.dp_size} replicas" if layout.dp_size > 1 else ""
    lines = [f"{job.example.pipeline} of {job.model} on {layout.world_size} x {found.device}: {layout}{each}"]
    lines += describe_groups(layout) if layout.world_size > 1 else []
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
