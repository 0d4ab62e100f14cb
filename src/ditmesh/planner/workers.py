"""Dry runs beside each other: processes of their own, since each is one rank of a world that is not there.

A process takes jobs on its standard input and answers on its standard output, pickled; whatever libraries print there
goes elsewhere. It inherits nothing of a launcher's: neither a rank nor a GPU.
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from threading import Timer
from typing import IO, Any

from ditmesh.job.description import Job
from ditmesh.planner.workload import Workload
from ditmesh.runtime.launch import cores
from ditmesh.runtime.world import NUMBERS

Answer = Sequence[Workload] | str  # what the ranks of a job do, or why it cannot be
MODULE = "ditmesh.planner.workers"
# What a program can stumble over that runs on tensors without numbers.
FAILURES = (RuntimeError, TypeError, AttributeError, LookupError, AssertionError, ArithmeticError, OSError)


def dry_runs(jobs: Iterable[Job], seconds: float | None = None) -> Iterator[tuple[int, Answer]]:
    """What the ranks of each job do, in the order in which it is found out, with the job's place.

    Args:
        seconds: after which no more is found out.
    """
    waiting, answers = SimpleQueue[tuple[int, Job]](), SimpleQueue[tuple[int, Answer] | None]()
    count = 0
    for place, job in enumerate(jobs):
        waiting.put((place, job))
        count += 1
    processes = [_start() for _ in range(min(cores(), count))]
    bound = None if seconds is None else Timer(seconds, lambda: [one.kill() for one in processes])
    if bound is not None:
        bound.start()
    try:
        with ThreadPoolExecutor(max(1, len(processes))) as pool:
            for process in processes:
                pool.submit(_feed, process, waiting, answers)
            left = len(processes)
            while left:
                answer = answers.get()
                if answer is None:
                    left -= 1
                else:
                    yield answer
    finally:
        if bound is not None:
            bound.cancel()
        for process in processes:
            process.kill()
            process.wait()


def _start() -> "subprocess.Popen[bytes]":
    theirs = {name: value for name, value in os.environ.items() if name not in (*NUMBERS, "MASTER_ADDR")}
    theirs |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    quiet = subprocess.DEVNULL
    return subprocess.Popen(
        [sys.executable, "-m", MODULE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=quiet, env=theirs
    )


def _feed(process: "subprocess.Popen[bytes]", waiting: SimpleQueue[Any], answers: SimpleQueue[Any]) -> None:
    """Give a process job after job, until there are none or it is gone."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        while True:
            place, job = waiting.get_nowait()
            pickle.dump(job, process.stdin)
            process.stdin.flush()
            answers.put((place, pickle.load(process.stdout)))
    except (Empty, EOFError, OSError):
        pass
    finally:
        answers.put(None)


def answer(job: Job, run: Callable[[Job], Sequence[Workload]]) -> Answer:
    """What the ranks do, or the refusal or failure in words: one layout that cannot be run leaves the others."""
    try:
        return run(job)
    except ValueError as error:
        return " ".join(str(error).split())
    except (
        RuntimeError,
        TypeError,
        AttributeError,
        LookupError,
        NotImplementedError,
        AssertionError,
        OSError,
    ) as error:
        where = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return f"the dry run failed, so that nothing is known of it ({where[:300]})"


def main() -> None:
    """Answer until the input ends."""
    out: IO[bytes] = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    from ditmesh.planner.dry_run import works_of

    while True:
        try:
            job = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump(answer(job, works_of), out)
        out.flush()


if __name__ == "__main__":
    main()
