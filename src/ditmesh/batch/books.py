"""The books of a job: what became of its pictures, what failed and why, and how far it is."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from ditmesh.batch.folder import FAILURES
from ditmesh.batch.writer import telling
from ditmesh.runtime.terminal import shown

SHOWN = 20  # failures told on the terminal; the file has all
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


class Books:
    """Counts, lists what failed, and shows how far the job is; ``opened`` makes them."""

    def __init__(self, folder: Path, console: Console, bar: Progress):
        self.tally, self._console, self._bar = Tally(), console, bar
        self._failures, self._told = folder / FAILURES, 0
        self._task = bar.add_task("drawing", total=None)
        self._began = self._spoke = time.monotonic()

    def bad_row(self, line: int, why: str) -> None:
        self.tally.bad_rows += 1
        self._tell({"line": line, "why": why}, f"line {line}: {why}")

    def failed(self, what: Mapping[str, object], why: str) -> None:
        self.tally.failed += 1
        self._tell({**what, "why": why}, f"line {what['line']}, {what['file']}: {why}")

    def say(self, text: str) -> None:
        """A line for the reader."""
        self._console.print(escape(shown(text)), soft_wrap=True)

    def show(self, total: int | None) -> None:
        """How far it is, of ``total`` pictures if their number is known by now."""
        done = self.tally.kept + self.tally.drawn + self.tally.failed
        self._bar.update(self._task, total=total, completed=done)
        now = time.monotonic()
        if self._console.is_terminal or now - self._spoke < SECONDS_BETWEEN_LINES:
            return
        self._spoke = now
        speed = self.tally.drawn / (now - self._began)
        rest = "" if total is None or not speed else f", {(total - done) / speed:.0f} s left"
        of = "" if total is None else f" of {total}"
        self.say(f"{done}{of} pictures, {speed:.2f} a second{rest}")

    def _tell(self, record: Mapping[str, object], text: str) -> None:
        with telling(self._failures), self._failures.open("a") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._told += 1
        if self._told <= SHOWN:
            self._console.print(f"[red]failed:[/] {escape(shown(text))}", soft_wrap=True)
        elif self._told == SHOWN + 1:
            self.say(f"more failed; {self._failures} lists them all")


@contextmanager
def opened(folder: Path, console: Console) -> Iterator[Books]:
    """The books of a job that begins: one bar for all of it; where there is no terminal it is not shown."""
    (folder / FAILURES).unlink(missing_ok=True)
    columns = BarColumn(), MofNCompleteColumn(), Speed(), TimeRemainingColumn()
    shown_at = console.is_terminal
    with Progress(
        TextColumn("{task.description}"),
        *columns,
        console=console,
        speed_estimate_period=MEMORY,
        disable=not shown_at,
    ) as bar:
        if shown_at:
            console.show_cursor(True)  # a process that is killed cannot bring it back
        yield Books(folder, console, bar)
