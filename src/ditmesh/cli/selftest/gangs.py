"""Have ranks do tasks, one gang after the other: a task that fails or hangs costs its gang, and not the rest."""

import json
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ditmesh.runtime.launch import launch_silently

RANK = "ditmesh.cli.selftest.rank"  # what each of them runs
SECONDS_TO_START = 120.0  # the ranks import large libraries, all at once
SECONDS_TO_NAME = 10.0  # the ranks that wait for a silent one find out which it is
GRACE = 10.0  # for a task that began in time
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
TIME_OVER = "the time was over"
FRAMES, LINES = 4, 8  # of each rank, where it was and what it said last
FRAME = re.compile(r'File "(?:[^"]*/(?:site-packages|src)/)?([^"]+)", line (\d+) in (\S+)')
MAIN = "cli/selftest/rank.py"  # in the thread that works
RAN_DOWN = "Timeout ("  # as faulthandler says it
# Where a rank is that waits for another one.
WAITING = re.compile(r"ditmesh/(runtime/(collectives|gang)|cli/selftest/tasks)\.py|torch/distributed/")


@dataclass
class Outcome:
    """What came of the tasks of one number of ranks.

    Attributes:
        results: by the number of a task; what has neither result nor failure was not done.
        failures: why it failed.
        stopped: why nothing more was done, or "".
        code: of an interrupt, else 0.
    """

    results: dict[int, dict[str, Any]] = field(default_factory=dict[int, dict[str, Any]])
    failures: dict[int, str] = field(default_factory=dict[int, str])
    stopped: str = ""
    code: int = 0


def run(tasks: list[dict[str, Any]], nproc: int, until: float, limit: float) -> Outcome:
    """Do the tasks on so many ranks until all are done or the time is over; those like one that failed come last.

    Args:
        until: when that is, as ``time.time`` counts.
        limit: seconds that one task may take.
    """
    outcome = Outcome()
    todo = dict(enumerate(tasks))
    while todo and not outcome.stopped:
        with tempfile.TemporaryDirectory(prefix="ditmesh-selftest-") as folder:
            _run_gang(outcome, Path(folder), todo, len(tasks), nproc, until, limit)
        failed = [_kind(tasks[number]) for number in outcome.failures]
        left = [(n, x) for n, x in todo.items() if n not in outcome.results and n not in outcome.failures]
        todo = dict(sorted(left, key=lambda one: _kind(one[1]) in failed))
        if todo and not outcome.stopped and time.time() >= until:
            outcome.stopped = TIME_OVER
    return outcome


def _kind(task: Mapping[str, Any]) -> str:
    return task["case"]["layout"] if "case" in task else task["task"]


def _run_gang(
    outcome: Outcome,
    folder: Path,
    todo: Mapping[int, Any],
    count: int,
    nproc: int,
    until: float,
    limit: float,
) -> None:
    plan = {
        "tasks": list(todo.items()),
        "count": count,
        "until": until,
        "limit": limit,
        "grace": GRACE,
        "patience": max(limit - SECONDS_TO_NAME, limit / 2),
        "start": min(SECONDS_TO_START, until - time.time() + GRACE),
    }
    (folder / "plan").write_text(json.dumps(plan))
    end = launch_silently(RANK, [str(folder)], nproc)
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)  # what the ranks last said they do
    told = [json.loads(line) for line in _read(folder / "results").splitlines()]
    outcome.results |= {one["number"]: one for one in told if "number" in one}
    begun = [one["begun"] for one in told if "begun" in one]
    if end.code in STOPPED:
        outcome.stopped, outcome.code = end.words, end.code
    elif end.code and not begun:
        outcome.stopped = f"{nproc} ranks did not start: {_why(end.words, folder, nproc)}"
    elif end.code:
        outcome.failures[begun[-1]] = _why(end.words, folder, nproc)


def _why(words: str, folder: Path, nproc: int) -> str:
    """The first failure; of a rank that hung, where all of them were."""
    notes = [_read(folder / f"where{rank}") for rank in range(nproc)]
    if any(RAN_DOWN in note for note in notes):
        words = "ranks gave no answer in time"
    lines = [words, *(line for rank, note in enumerate(notes) for line in _whereabouts(rank, note))]
    for rank in range(nproc):
        lines += [f"rank {rank} said: {line}" for line in _read(folder / f"said{rank}").splitlines()[-LINES:]]
    return "\n".join(lines)


def _whereabouts(rank: int, note: str) -> Iterator[str]:
    """In which function a rank was, and whether it waited there for others."""
    threads = [FRAME.findall(thread) for thread in note.split("\n\n")]
    frames = next((x for x in threads if any(path.endswith(MAIN) for path, *_ in x)), [])
    if frames:
        ours = [f"{path}:{line} {name}" for path, line, name in frames if path.startswith("ditmesh/")]
        state = "waited" if any(WAITING.search(path) for path, *_ in frames[:FRAMES]) else "was silent"
        where = [f"{path}:{line} {name}" for path, line, name in frames[:1]] + ours
        yield f"rank {rank} {state} in {' < '.join(dict.fromkeys(where[:FRAMES]))}"


def _read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
