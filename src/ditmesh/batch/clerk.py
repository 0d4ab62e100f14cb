"""Keeps the books of a job on rank 0, beside its drawing: the manifest, what failed, the count and the bar."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from ditmesh.batch.manifest import Manifest
from ditmesh.batch.pictures import Picture, Recipe
from ditmesh.batch.rows import BadRow
from ditmesh.batch.work_list import Reports
from ditmesh.batch.writer import telling
from ditmesh.runtime.terminal import shown

FAILURES = "failures.jsonl"
SHOWN = 20  # failures told on the terminal; the file has all
COUNTED = 500  # rows counted at once
PAUSE = 0.05  # seconds
SECONDS_BETWEEN_LINES = 30  # where there is no terminal for a bar
MEMORY = 600  # seconds that the speed is the mean of


@dataclass
class Tally:
    """What became of the pictures so far."""

    kept: int = 0
    drawn: int = 0
    failed: int = 0
    bad_rows: int = 0

    @property
    def is_whole(self) -> bool:
        return self.failed == self.bad_rows == 0


class Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.2f} pictures/s" if speed >= 1 else f"{1 / speed:.1f} s a picture")


class Clerk:
    """Counts the pictures there are, and enters each that is reported.

    Use it as a context: its thread ends with it. An error of its own comes out of ``check`` and ``close``.
    """

    def __init__(self, manifest: Manifest, reports: Reports, replicas: int, console: Console):
        self.tally, self._manifest, self._reports, self._open = Tally(), manifest, reports, replicas
        self._console, self._stopped, self._told = console, threading.Event(), 0
        self._failures = manifest.folder / FAILURES
        self._closing = ExitStack()
        self._began = self._spoke = time.monotonic()

    def __enter__(self) -> "Clerk":
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._closing.close()

    def begin(self, census: Iterator[Picture | BadRow], recipe: Recipe, finished: np.ndarray) -> None:
        """Start the thread; ``census`` are all pictures there are, ``finished`` the identities of those kept."""
        self._failures.unlink(missing_ok=True)
        pool = self._closing.enter_context(ThreadPoolExecutor(1, thread_name_prefix="clerk"))
        self._closing.callback(self._stopped.set)
        self._books: Future[None] = pool.submit(self._keep_books, census, recipe, finished)

    def check(self) -> None:
        """Raise what went wrong in the thread, if anything did."""
        if self._books.done():
            self._books.result()

    def close(self) -> Tally:
        """Wait until every replica has ended and all is entered."""
        self._books.result()
        return self.tally

    def _keep_books(self, census: Iterator[Picture | BadRow], recipe: Recipe, finished: np.ndarray) -> None:
        seen, counted = 0, False
        with bar(self._console) as progress:
            if self._console.is_terminal:
                self._console.show_cursor(True)  # a process that is killed cannot bring it back
            task = progress.add_task("drawing", total=None)
            while not self._stopped.is_set() and not (counted and self._open == 0):
                some = [] if counted else list(islice(census, COUNTED))
                seen += sum(self._count(item, recipe, finished) for item in some)
                counted = counted or not some
                entered = self._enter_all()
                done = self.tally.kept + self.tally.drawn + self.tally.failed
                progress.update(task, total=seen if counted else None, completed=done)
                self._say_in_lines(done, seen if counted else None)
                if counted and not entered:
                    self._stopped.wait(PAUSE)

    def _enter_all(self) -> bool:
        """Enter what is in line; whether there was anything."""
        entered = False
        while not self._stopped.is_set() and (record := self._reports.next()) is not None:
            self._enter(json.loads(record))
            entered = True
        return entered

    def _count(self, item: Picture | BadRow, recipe: Recipe, finished: np.ndarray) -> int:
        if isinstance(item, BadRow):
            self.tally.bad_rows += 1
            self._tell({"line": item.line, "why": item.why}, f"line {item.line}: {item.why}")
            return 0
        self.tally.kept += is_among(recipe.identity(item), finished)
        return 1

    def _enter(self, record: dict[str, Any]) -> None:
        if "end" in record:
            self._open -= 1
        elif "why" in record:
            self.tally.failed += 1
            self._tell(record, f"line {record['line']}, {record['file']}: {record['why']}")
        else:
            self._manifest.append(record)
            self.tally.drawn += 1

    def _tell(self, record: dict[str, Any], text: str) -> None:
        with telling(self._failures), self._failures.open("a") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._told += 1
        if self._told <= SHOWN:
            self._console.print(f"[red]failed:[/] {escape(shown(text))}", soft_wrap=True)
        elif self._told == SHOWN + 1:
            self._console.print(f"more failed; {escape(shown(self._failures))} lists them all", soft_wrap=True)

    def _say_in_lines(self, done: int, total: int | None) -> None:
        now = time.monotonic()
        if self._console.is_terminal or now - self._spoke < SECONDS_BETWEEN_LINES:
            return
        self._spoke = now
        speed = self.tally.drawn / (now - self._began)
        rest = "" if total is None or not speed else f", {(total - done) / speed:.0f} s left"
        of = "" if total is None else f" of {total}"
        self._console.print(f"{done}{of} pictures, {speed:.2f} a second{rest}", soft_wrap=True)


def bar(console: Console) -> Progress:
    """One bar for the whole job; where there is no terminal it is not shown."""
    columns = BarColumn(), MofNCompleteColumn(), Speed(), TimeRemainingColumn()
    return Progress(
        TextColumn("{task.description}"),
        *columns,
        console=console,
        speed_estimate_period=MEMORY,
        disable=not console.is_terminal,
    )


def is_among(identity: int, finished: np.ndarray) -> bool:
    """Whether a sorted array holds a number."""
    at = int(np.searchsorted(finished, np.uint64(identity)))
    return at < len(finished) and int(finished[at]) == identity
