"""Have ranks do tasks, one gang after the other: a task that fails or hangs costs its gang, and not the rest."""

import json
import re
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
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
INNERMOST = 3  # frames, in which a rank is that waits for another one
FRAME = re.compile(r'File "(?:[^"]*/(?:site-packages|src)/)?([^"]+)", line (\d+) in (\S+)')
RAN_DOWN = "Timeout ("  # as faulthandler says it
WAITING = re.compile(r"ditmesh/runtime/(collectives|gang)\.py|torch/distributed/|agree_on$")


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
    """The first failure; of ranks that did not end by themselves, where they were."""
    notes = [_read(folder / f"where{rank}") for rank in range(nproc)]
    lines = ["ranks gave no answer in time" if any(RAN_DOWN in note for note in notes) else words]
    lines += [f"rank {rank} {_whereabouts(note)}" for rank, note in enumerate(notes) if note]
    for rank in range(nproc):
        lines += [f"rank {rank} said: {line}" for line in _read(folder / f"said{rank}").splitlines()[-LINES:]]
    return "\n".join(lines)


def _whereabouts(note: str) -> str:
    """In which function the rank was, and whether it waited there for others."""
    frames = FRAME.findall(note.split("\n\n")[-1])  # of the main thread, which comes last
    told = [f"{path}:{line} {name}" for path, line, name in frames]
    ours = [frame for frame in told if frame.startswith("ditmesh/")]
    state = "waited for others" if any(map(WAITING.search, told[:INNERMOST])) else "was silent"
    return f"{state} in {' < '.join(dict.fromkeys([*told[:1], *ours[:FRAMES]]))}"


def _read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
