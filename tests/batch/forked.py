"""The engine of this machine with ranks that are forked from the pool's process, which has imported all they need."""

import json
import os
import subprocess
import sys
from multiprocessing import get_context
from multiprocessing.connection import Connection, Pipe
from socket import socket
from typing import Any

from ditmesh.replicas.local import LocalEngine, LocalRanks

FAIL = "FAIL"  # the variable that says which prompt fails on which ranks, and how often


class ForkedEngine(LocalEngine):
    def start(self, replica: int, job: Any, tell: Any) -> LocalRanks:
        environment = {**self._environment(job.layout.world_size, [], True), "PWD": os.getcwd()}
        return ForkedRanks(job.layout.world_size, job, environment, tell, self._written)


class ForkedRanks(LocalRanks):
    def _start(self, rank: int, environment: Any, store: int) -> None:
        own, others = Pipe()
        with others, socket(fileno=os.dup(store)) as listener:
            process = Forked(others, listener, {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        self._connections.append(own)
        self._processes.append(process)  # pyright: ignore[reportArgumentType]


class Forked:
    """A rank, with as much of subprocess.Popen as the engine uses."""

    def __init__(self, connection: Connection, store: socket, environment: dict[str, str]):
        given = connection, store, environment
        self._process = get_context("forkserver").Process(target=be_a_rank, args=given, daemon=True)
        self._process.start()
        silent, other = os.pipe()
        os.close(other)
        self.stdout = os.fdopen(silent, "rb")

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout: float | None = None) -> None:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("rank", timeout or 0)

    def poll(self) -> int | None:
        return self._process.exitcode


def be_a_rank(connection: Connection, store: socket, environment: dict[str, str]) -> None:
    from ditmesh.replicas import drawing, process

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(environment["PWD"])
    if FAIL in environment:
        drawing.call_pipeline = failing(drawing.call_pipeline, *json.loads(environment[FAIL]))
    sys.argv = ["rank", str(os.dup(connection.fileno())), str(os.dup(store.fileno()))]
    connection.close()
    store.close()
    process.main()


def failing(drawn: Any, prompt: str, ranks: list[int], times: int) -> Any:
    """`call_pipeline` that fails on these ranks for this prompt, so many times; if -1, it ends the rank with code 0."""
    left = [times]

    def wrapped(pipe: Any, call: Any, *rest: Any) -> Any:
        prompts = call["prompt"] if isinstance(call["prompt"], list) else [call["prompt"]]
        if prompt in prompts and int(os.environ["RANK"]) in ranks and left[0]:
            left[0] -= 1
            if times < 0:
                os._exit(0)
            raise RuntimeError("the cause")
        return drawn(pipe, call, *rest)

    return wrapped
