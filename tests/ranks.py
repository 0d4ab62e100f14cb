"""A pool of gloo ranks for a file of tests: torch is imported once, then a case costs little."""

import importlib
import multiprocessing as mp
import os
import signal
import sys
import tempfile
import time
import traceback
from contextlib import chdir
from datetime import timedelta
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

PRELOAD = "tests.ranks_preload"
TIMEOUT = 120  # seconds a case may take before its ranks are killed: a hang is a failure, not a wait


class RankFailure(AssertionError):
    """A case failed on a rank."""


class Ranks:
    """Run a function on n ranks at once and return what each returned."""

    def __init__(self) -> None:
        self._context = mp.get_context("forkserver")
        self._context.set_forkserver_preload([PRELOAD])
        # Now, and where it finds the preload: a test may be in another folder when it asks for the first rank, and a
        # preload that cannot be imported is passed over in silence; then every rank imports everything by itself.
        with chdir(Path(__file__).parents[1]):
            forkserver.ensure_running()
        self._teams: dict[int, list[tuple[Any, Connection]]] = {}  # by number of ranks
        self._folder = tempfile.TemporaryDirectory()
        self._started = 0

    def run(self, function: Any, world: int, *args: Any, **kwargs: Any) -> list[Any]:
        """``function(*args, **kwargs)`` on ranks 0 .. world - 1 of one process group; it is found by its name there."""
        if world not in self._teams:
            self._start(world)
        self._signal(world, signal.SIGCONT)
        connections = [connection for _, connection in self._teams[world]]
        for connection in connections:
            connection.send((function.__module__, function.__qualname__, args, kwargs))
        answers = self._collect(world, connections)
        self._signal(world, signal.SIGSTOP)
        return answers

    def _signal(self, world: int, number: signal.Signals) -> None:
        """Let a team sleep between its cases: gloo has threads for every group that was made, which poll."""
        for process, _ in self._teams[world]:
            os.kill(process.pid, number)

    def _start(self, world: int) -> None:
        self._started += 1
        meeting = str(Path(self._folder.name) / str(self._started))
        self._teams[world] = []
        for rank in range(world):
            ours, theirs = self._context.Pipe()
            process = self._context.Process(target=_serve, args=(theirs, meeting, rank, world), daemon=True)
            process.start()
            self._teams[world].append((process, ours))

    def _collect(self, world: int, connections: list[Connection]) -> list[Any]:
        """Every rank's answer; the first failure ends them all, since the others may wait for it forever."""
        answers: dict[Connection, Any] = {}
        deadline = time.monotonic() + TIMEOUT
        while len(answers) < len(connections):
            ready = wait([c for c in connections if c not in answers], timeout=max(deadline - time.monotonic(), 0))
            if not ready:
                self._end(world)
                raise RankFailure(f"ranks {[i for i, c in enumerate(connections) if c not in answers]} hang")
            for connection in ready:
                try:
                    failed, answers[connection] = connection.recv()
                except EOFError:
                    failed, answers[connection] = True, "the process died"
                if failed:
                    self._end(world)
                    raise RankFailure(f"rank {connections.index(connection)}:\n{answers[connection]}")
        return [answers[connection] for connection in connections]

    def _end(self, world: int) -> None:
        """Kill a team; the next case starts another."""
        for process, connection in self._teams.pop(world):
            process.kill()
            process.join()
            connection.close()

    def rest(self) -> None:
        """Kill all ranks, and what groups they made with them."""
        for world in list(self._teams):
            self._end(world)

    def close(self) -> None:
        self.rest()
        self._folder.cleanup()


def _serve(connection: Connection, meeting: str, rank: int, world: int) -> None:
    assert PRELOAD in sys.modules
    import torch
    import torch.distributed as dist

    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=world, timeout=timedelta(seconds=TIMEOUT)
    )
    while True:
        try:
            module, name, args, kwargs = connection.recv()
        except EOFError:
            return
        torch.manual_seed(0)
        try:
            with torch.no_grad():
                connection.send((False, vars(importlib.import_module(module))[name](*args, **kwargs)))
        except BaseException:  # noqa: BLE001 - whatever it is, the test session has to hear of it
            connection.send((True, traceback.format_exc()))
