"""One rank of a batch job: take pictures from the list all replicas share, draw and write them, until none is left."""

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from ditmesh.batch.clerk import Clerk, Tally, is_among
from ditmesh.batch.drawing import Failed, draw_together
from ditmesh.batch.manifest import Manifest
from ditmesh.batch.pictures import Picture, Recipe, all_pictures, batches
from ditmesh.batch.rows import BadRow, GoodRow
from ditmesh.batch.work_list import WorkList
from ditmesh.batch.writer import remove_unfinished, write
from ditmesh.job.description import Job
from ditmesh.job.picture import encode, facts_of

log = logging.getLogger("ditmesh.batch")
FINISHED = "finished"  # the identities of the pictures that were there before


@dataclass(frozen=True)
class Order:
    """What is to be made.

    Attributes:
        rows: begins the stream of rows anew.
        batch_size: pictures in one call of a replica's pipeline, at most.
        resume: whether pictures that the folder's manifest lists stay.
    """

    rows: Callable[[], Iterable[GoodRow | BadRow]]
    job: Job
    recipe: Recipe
    folder: Path
    batch_size: int = 1
    resume: bool = True

    def pictures(self) -> Iterator[Picture | BadRow]:
        return all_pictures(self.rows(), self.recipe)


def prepare_folder(order: Order, work: WorkList) -> Manifest:
    """Make the output folder ready, and tell all ranks what is finished; for rank 0, before the others draw."""
    order.folder.mkdir(parents=True, exist_ok=True)
    remove_unfinished(order.folder)
    manifest = Manifest(order.folder)
    work.publish(FINISHED, manifest.begin(order.resume).tobytes())
    return manifest


def keep_books(order: Order, work: WorkList, pipe: object, manifest: Manifest, console: Console) -> Tally:
    """Draw on rank 0, and beside it keep the books of the whole job; ends when every replica has ended."""
    finished = _finished(work)
    with Clerk(manifest, work.own_line(), order.job.layout.dp_size, console) as clerk:
        clerk.begin(order.pictures(), order.recipe, finished)
        draw_all(order, work, pipe, clerk.check)
        tally = clerk.close()
    manifest.finish()
    return tally


def draw_all(order: Order, work: WorkList, pipe: object, check: Callable[[], None] = lambda: None) -> None:
    """Draw with the other ranks of this replica until the list is empty; ``check`` is called in between."""
    mine = _batches_of(order, work) if work.place.leads else None
    while True:
        batch = _next(mine, work)
        if not batch:
            break
        began = time.perf_counter()
        drawn = draw_together(pipe, batch, work)
        again = [i for i, result in enumerate(drawn) if isinstance(result, Failed)]
        for i in again:
            log.info("%s failed: %s; once more", batch[i].name, drawn[i])
            drawn[i] = draw_together(pipe, [batch[i]], work)[0]
        seconds = (time.perf_counter() - began) / len(batch)
        if work.place.leads:
            for picture, result in zip(batch, drawn, strict=True):
                work.report(json.dumps(_deliver(order, picture, result, seconds)))
        check()
    if work.place.leads:
        work.report(json.dumps({"end": work.place.replica}))


def _finished(work: WorkList) -> np.ndarray:
    return np.frombuffer(work.read(FINISHED), dtype=np.uint64)


def _batches_of(order: Order, work: WorkList) -> Iterator[list[Picture]]:
    """The batches that this replica takes from those all replicas see alike."""
    finished = _finished(work)
    left = (
        picture
        for picture in order.pictures()
        if isinstance(picture, Picture) and not is_among(order.recipe.identity(picture), finished)
    )
    wanted = work.take()
    for number, batch in enumerate(batches(left, order.batch_size)):
        if number == wanted:
            yield batch
            wanted = work.take()


def _next(mine: Iterator[list[Picture]] | None, work: WorkList) -> Sequence[Picture]:
    """The next batch on every rank of the replica; empty at the end."""
    if mine is None:
        return [Picture(**facts) for facts in json.loads(work.share(None))]
    batch = next(mine, [])
    work.share(json.dumps([asdict(picture) for picture in batch]))
    return batch


def _deliver(order: Order, picture: Picture, result: np.ndarray | Failed, seconds: float) -> dict[str, object]:
    """Write a picture; what is to be entered for it."""
    what = {"index": picture.index, "image": picture.image, "line": picture.line, "file": picture.file}
    if isinstance(result, Failed):
        return {**what, "why": result.why}
    facts = facts_of(order.job, {**picture.call, "prompt": picture.prompt}, picture.seed)
    facts["noise_seed"] = picture.noise_seed
    written = write(order.folder, picture.file, encode(result, Path(picture.file).suffix.lower(), facts))
    identity = f"{order.recipe.identity(picture):016x}"
    made = {"layout": str(order.job.layout), "seconds": round(seconds, 3), "identity": identity}
    log.info("%s in %.2f s", picture.file, seconds)
    return {**what, **facts, **made, **written}
