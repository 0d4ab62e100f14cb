"""What the Ray engine runs on the nodes: an actor that is a rank, and a task that kills some."""

import os
import pickle
import signal
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

import ray

LISTENING = 1.0  # seconds that a question to an actor waits for something it has to say
SECONDS_TO_DIE = 5
RAYS_OWN = b"ray::"  # how the processes of actors are named
THREADS = {"run": 1, "take": 1, "said": 1}  # of an actor, so that it hears and is heard while it draws


@dataclass(frozen=True)
class Seat:
    """Where an actor is, and which GPUs are its own."""

    node: str
    host: str
    pid: int
    gpus: tuple[str, ...]


class RankActor:
    """A rank in a process of Ray's. What it has to say is fetched: an actor calls nobody."""

    def __init__(self) -> None:
        self._said: SimpleQueue[bytes] = SimpleQueue()
        self._told: SimpleQueue[bytes] = SimpleQueue()
        self._listener: socket.socket | None = None

    @ray.method(concurrency_group="run")
    def sit(self) -> Seat:
        context = ray.get_runtime_context()
        gpus = context.get_accelerator_ids().get("GPU", [])
        return Seat(context.get_node_id(), ray.util.get_node_ip_address(), os.getpid(), tuple(map(str, gpus)))

    @ray.method(concurrency_group="run")
    def listen(self, host: str) -> int:
        """Open the port of the ranks' store, on the first of them."""
        self._listener = socket.create_server((host, 0))
        return self._listener.getsockname()[1]

    @ray.method(concurrency_group="run")
    def run(self, job: bytes, files: Sequence[str], environment: Mapping[str, str]) -> None:
        """Be a rank until it can draw no more."""
        os.environ.update(environment)
        # Imported here: with them comes torch, which looks at the variables.
        from ditmesh.replicas.messages import Broken
        from ditmesh.replicas.rank import Rank
        from ditmesh.runtime.store import serve_store
        from ditmesh.runtime.world import World

        if missing := [file for file in files if not Path(file).exists()]:
            why = f"node {socket.gethostname()} has no {missing[0]}; put it there too, or name a hub id."
            self._said.put(pickle.dumps(Broken(why, for_good=True)))
            return
        store = self._listener and serve_store(self._listener.detach(), environment["MASTER_ADDR"])
        rank = Rank(pickle.loads(job), World.read(os.environ), self._said.put)

        def pass_on() -> None:
            while True:
                rank.take(self._told.get())

        threading.Thread(target=pass_on, daemon=True).start()
        rank.run()
        del store

    @ray.method(concurrency_group="take")
    def take(self, message: bytes) -> None:
        self._told.put(message)

    @ray.method(concurrency_group="said")
    def said(self) -> list[bytes]:
        """All that it has said since; waits a while if that is nothing."""
        heard: list[bytes] = []
        with suppress(Empty):
            heard.append(self._said.get(timeout=LISTENING))
            while True:
                heard.append(self._said.get_nowait())
        return heard


def kill_processes(pids: Sequence[int]) -> None:
    """Kill ranks of this machine, stopped ones too, and wait until they are gone."""
    deadline = time.monotonic() + SECONDS_TO_DIE
    for pid in pids:
        while _is_rays(pid) and time.monotonic() < deadline:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)


def _is_rays(pid: int) -> bool:
    """Whether there is such a process, and it is no other that has its number by now."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(RAYS_OWN)
    return False
