"""Processes that rehearse ranks of jobs, one after the other: each is alone in a process group that does not exist.

A process takes jobs on its standard input and answers on its standard output, pickled; what libraries print there goes
to its standard error. It inherits nothing of a launcher's: neither a rank nor a GPU.
"""

import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from tempfile import TemporaryFile
from threading import Event, Timer

from ditmesh.job.description import Job
from ditmesh.planner.workload import Workload
from ditmesh.runtime.launch import cores

OF_RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
ALONE = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
Asked = tuple[Job, int]
Answer = Workload | ValueError | RuntimeError  # what a rank does; why the job cannot run; an error of ours


class Worker:
    """A process, started when it is first asked, and again after one that died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._told = TemporaryFile()  # noqa: SIM115  # as long as there is a worker
        self.ended = False

    def ask(self, asked: Asked) -> Answer | None:
        """The answer; None once it was ended from outside."""
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            pickle.dump(asked, process.stdin)
            process.stdin.flush()
            return pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            self._process = None
            process.wait()
            self._told.seek(0)
            last = self._told.read().decode(errors="replace").strip()[-2000:]
            failed = RuntimeError(f"the dry run failed, which is an error of ditmesh; please report it:\n{last}")
            return None if self.ended else failed

    def _start(self) -> "subprocess.Popen[bytes]":
        environment = {name: value for name, value in os.environ.items() if name not in OF_RANKS} | ALONE
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        self._told.seek(0)
        self._told.truncate()
        return subprocess.Popen(
            [sys.executable, "-m", __name__],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._told,
        )

    def end(self) -> None:
        """Kill the process, whatever it is at; it is not started again."""
        self.ended = True
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def answers(asked: Sequence[Asked], seconds: float | None = None) -> Iterator[tuple[int, Answer]]:
    """What each rank does, with its place, as soon as it is known; on all cores.

    Args:
        seconds: after which nothing more is found out.
    """
    waiting, found = SimpleQueue[tuple[int, Asked]](), SimpleQueue[tuple[int, Answer] | None]()
    for item in enumerate(asked):
        waiting.put(item)
    workers = [Worker() for _ in range(min(cores(), len(asked)))]
    over = Event()

    def feed(worker: Worker) -> None:
        try:
            while not over.is_set():
                place, one = waiting.get_nowait()
                answer = worker.ask(one)
                if answer is None:
                    break
                found.put((place, answer))
        except Empty:
            pass
        finally:
            worker.end()
            found.put(None)

    def stop() -> None:
        over.set()
        for worker in workers:
            worker.end()

    bound = Timer(seconds if seconds is not None else 0, stop)
    bound.daemon = True
    if seconds is not None:
        bound.start()
    with ThreadPoolExecutor(max(1, len(workers))) as pool:
        try:
            for worker in workers:
                pool.submit(feed, worker)
            for _ in workers:
                while (answer := found.get()) is not None:
                    yield answer
        finally:
            bound.cancel()
            stop()


def main() -> None:
    """Answer until the input ends."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as out:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        logging.disable(logging.WARNING)
        from ditmesh.planner.rehearsal import rehearse

        while True:
            try:
                job, rank = pickle.load(sys.stdin.buffer)
            except EOFError:
                return
            try:
                answer: Answer = rehearse(job, rank)
            except ValueError as error:
                answer = ValueError(str(error))
            pickle.dump(answer, out)
            out.flush()


if __name__ == "__main__":
    main()
