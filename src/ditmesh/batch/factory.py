"""Make pictures of rows: feed the replicas a little ahead, write what comes back, and enter it."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from queue import Empty, SimpleQueue

import numpy as np

from ditmesh.batch.books import Books
from ditmesh.batch.folder import ANOTHER, LOCK, refusal
from ditmesh.batch.manifest import Manifest, is_among
from ditmesh.batch.pictures import Picture, Recipe, all_pictures, batches
from ditmesh.batch.rows import BadRow, GoodRow
from ditmesh.batch.writer import BadName
from ditmesh.job.call import given
from ditmesh.job.description import Job
from ditmesh.job.picture import facts_of
from ditmesh.replicas.requests import Event, Failed, Finished, Judged, Request, Result, Retried
from ditmesh.replicas.supervisor import Supervisor

log = logging.getLogger("ditmesh.batch")
AHEAD = 3  # calls for each replica: one that it draws, and others that wait
LOOKED_AT = 1000  # pictures that are looked at before anything is loaded
COUNTED = 200  # rows counted at once
PATIENCE = 0.5  # seconds without an event, before the replicas are looked at
SECONDS_BETWEEN_LOOKS = 0.05  # while they start


@dataclass(frozen=True)
class Order:
    """What is to be made.

    Attributes:
        rows: begins the stream of rows anew.
        replicas: how many there may be at most.
        batch_size: pictures in one call of a replica's pipeline, at most.
        resume: whether pictures that the folder's manifest lists stay.
        replaces: whether pictures may take the place of other files.
    """

    rows: Callable[[], Iterable[GoodRow | BadRow]]
    job: Job
    recipe: Recipe
    folder: Path
    replicas: int = 1
    batch_size: int = 1
    resume: bool = True
    replaces: bool = False

    def pictures(self) -> Iterator[Picture | BadRow]:
        return all_pictures(self.rows(), self.recipe)

    def refusal(self, picture: Picture, ours: np.ndarray) -> str:
        """Why a picture cannot be put into the folder; ``ours`` are those that may be in its place."""
        return refusal(self.folder, picture.file, self.replaces or is_among(self.recipe.identity(picture), ours))


def check_folder(order: Order, manifest: Manifest) -> None:
    """Refuse a job whose first pictures would take the place of others.

    Raises:
        ValueError: which.
    """
    if order.replaces or not order.folder.is_dir() or all(path.name == LOCK for path in order.folder.iterdir()):
        return
    ours = manifest.listed()
    for picture in islice(order.pictures(), LOOKED_AT):
        if isinstance(picture, Picture) and order.refusal(picture, ours) == ANOTHER:
            raise ValueError(
                f"--output_dir {order.folder}: {picture.file} is there, and is not the picture that this job would "
                f"draw; choose another folder, or add --overwrite, which keeps those that are the same."
            )


def judged(supervisor: Supervisor) -> Judged:
    """What the first rank that has looked found out of the job.

    Raises:
        ValueError: no replica can be started.
    """
    while True:
        for replica in supervisor.replicas():
            if replica.judged is not None:
                return replica.judged
        if supervisor.broken:
            raise ValueError(f"{supervisor.broken}.")
        time.sleep(SECONDS_BETWEEN_LOOKS)


class Factory:
    """Draws all of an order with the replicas of a supervisor, whose events are put into a line."""

    def __init__(self, order: Order, manifest: Manifest, books: Books, events: "SimpleQueue[Event]"):
        self._order, self._manifest, self._books, self._events = order, manifest, books, events
        self._under_way: dict[str, list[Picture]] = {}
        self._again: list[Picture] = []  # failed once, and are drawn once more, each by itself
        self._failed = set[str]()
        self._count = 0

    def draw(self, supervisor: Supervisor) -> None:
        """Draw until there is nothing left.

        Raises:
            ValueError: no replica can draw any more, or nothing can be written.
        """
        ours = self._manifest.listed()
        finished = self._manifest.begin(self._order.resume)
        if self._manifest.damaged:
            self._books.say(
                f"note: the bytes of {len(self._manifest.damaged)} files are not those that were written, as of "
                f"{self._manifest.damaged[0]}; they are kept as NAME.damaged, and the pictures are drawn again"
            )
        feed = batches(self._to_draw(finished, ours), self._order.batch_size)
        census = self._census(finished)
        total, counted = 0, False
        while True:
            self._feed(supervisor, feed)
            if not self._under_way and counted:
                return
            if not counted:
                some = list(islice(census, COUNTED))
                total, counted = total + sum(some), not some
            self._books.show(total if counted else None)
            self._take(supervisor, wait=counted)

    def _to_draw(self, finished: np.ndarray, ours: np.ndarray) -> Iterator[Picture]:
        for picture in self._order.pictures():
            if isinstance(picture, BadRow) or is_among(self._order.recipe.identity(picture), finished):
                continue
            if why := self._order.refusal(picture, ours):
                self._books.failed(picture.place, why)
            else:
                yield picture

    def _census(self, finished: np.ndarray) -> Iterator[int]:
        """Count the pictures, and tell of bad rows; it runs ahead of what is drawn."""
        for item in self._order.pictures():
            if isinstance(item, BadRow):
                self._books.bad_row(item.line, item.why)
            else:
                self._books.tally.kept += is_among(self._order.recipe.identity(item), finished)
            yield isinstance(item, Picture)

    def _feed(self, supervisor: Supervisor, feed: Iterator[list[Picture]]) -> None:
        while len(self._under_way) < AHEAD * self._order.replicas:
            batch = [self._again.pop()] if self._again else next(feed, [])
            if not batch:
                return
            self._count += 1
            request = request_of(f"{self._count}", batch, self._order)
            self._under_way[request.id] = batch
            supervisor.submit(request)

    def _take(self, supervisor: Supervisor, wait: bool) -> None:
        """Enter what has come in."""
        try:
            event = self._events.get(wait, PATIENCE)
        except Empty:
            self._check(supervisor)
            return
        if isinstance(event, Retried):
            self._books.say(f"a replica was lost, and draws once more what it drew: {event.why}")
        if not isinstance(event, Finished | Failed):
            return
        pictures = self._under_way.pop(event.id)
        if isinstance(event, Finished) and len(event.results) == len(pictures):
            seconds = sum(each for stage, each in event.seconds.items() if stage != "queued") / len(pictures)
            for picture, result in zip(pictures, event.results, strict=True):
                self._deliver(picture, result, seconds)
            return
        self._check(supervisor)
        if isinstance(event, Failed):
            why, last = event.why, not event.by_request and len(pictures) == 1
        else:
            why, last = f"the pipeline drew {len(event.results)} pictures for {len(pictures)} prompts", False
        for picture in pictures:
            self._fail(picture, why, last)

    def _check(self, supervisor: Supervisor) -> None:
        if supervisor.broken:
            raise ValueError(
                f"{supervisor.broken}. The finished pictures are kept, and the same command goes on from there."
            )

    def _deliver(self, picture: Picture, result: Result, seconds: float) -> None:
        if result.failed is not None:
            self._fail(picture, result.failed)
            return
        identity = f"{self._order.recipe.identity(picture):016x}"
        made = {"layout": str(self._order.job.layout), "seconds": round(seconds, 3), "identity": identity}
        try:
            self._manifest.enter({**picture.place, **result.facts, **made}, picture.file, result.content)
        except BadName as error:
            self._fail(picture, str(error), last=True)
        else:
            log.info("%s in %.2f s", picture.file, seconds)
            self._books.tally.drawn += 1

    def _fail(self, picture: Picture, why: str, last: bool = False) -> None:
        if last or picture.file in self._failed:
            self._books.failed(picture.place, why)
            return
        log.info("%s failed: %s; once more", picture.file, why)
        self._failed.add(picture.file)
        self._again.append(picture)


def request_of(id: str, pictures: list[Picture], order: Order) -> Request:
    """One call of the pipeline that draws these pictures, which are of one kind."""
    call = given(**pictures[0].call) | {"prompt": pictures[0].prompt}
    if len(pictures) > 1:
        call["prompt"] = [picture.prompt for picture in pictures]
        if "negative_prompt" in call:
            call["negative_prompt"] = [picture.call["negative_prompt"] for picture in pictures]
    return Request(
        id,
        call,
        tuple(picture.noise_seed for picture in pictures),
        tuple(
            facts_of(order.job, {**x.call, "prompt": x.prompt}, x.seed) | {"noise_seed": x.noise_seed} for x in pictures
        ),
        PurePosixPath(pictures[0].file).suffix.lower(),
    )
