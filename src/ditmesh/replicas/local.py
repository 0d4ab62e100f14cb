"""The engine of this machine: each rank is a process of its own, which dies with the supervisor, however that ends."""

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from queue import SimpleQueue
from typing import IO

from ditmesh.job.description import Job
from ditmesh.replicas.engine import NoRoom, RankDied, Tell
from ditmesh.runtime.launch import LOOPBACK, LOOPBACK_DEVICE, PACKAGE, cores

PROGRAM = "ditmesh.replicas.process"
LAST_WORDS = 2000  # bytes of what a rank wrote to its terminal
SECONDS_TO_CLOSE = 5  # between the end of a rank's connection and of its process
OF_A_LAUNCHER = "TORCHELASTIC"  # how the variables begin by which torchrun tells a process of itself


class LocalEngine:
    """Starts the ranks of replicas as processes of this machine, each with a GPU of its own if there are any."""

    def __init__(self, replicas: int = 1, gpus: Sequence[str] | None = None):
        """
        Args:
            replicas: how many there will be at most; on a CPU they share its cores.
            gpus: those to deal out, as CUDA_VISIBLE_DEVICES names them; None for all that can be seen.
        """
        self._replicas, self._gpus = replicas, list(gpus if gpus is not None else visible_gpus())

    def start(self, replica: int, job: Job, tell: Tell) -> "LocalRanks":
        size = job.layout.world_size
        gpus = [] if job.device == "cpu" else self._gpus
        own = gpus[replica * size : (replica + 1) * size]
        if gpus and len(own) < size:
            most = len(gpus) // size
            raise NoRoom(
                f"{replica + 1} replicas of {job.layout} need {(replica + 1) * size} GPUs, and there are {len(gpus)}; "
                f"{f'ask for {most} replicas' if most else 'name a smaller layout'}, or check CUDA_VISIBLE_DEVICES.",
                for_good=True,
            )
        return LocalRanks(size, job, self._environment(size, own, job.device == "cpu"), tell)

    def close(self) -> None:
        pass

    def _environment(self, size: int, gpus: Sequence[str], on_cpu: bool) -> dict[str, str]:
        """What all ranks of a replica find in their environment."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(OF_A_LAUNCHER)}
        own |= {"MASTER_ADDR": LOOPBACK, "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
        own |= {"TORCHELASTIC_USE_AGENT_STORE": "True"}  # the store is there already
        if gpus or on_cpu:
            own["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        own.setdefault("OMP_NUM_THREADS", str(max(1, cores() // (size * self._replicas))))
        if sys.platform == "linux":
            own.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK_DEVICE)
        if Path(PACKAGE).parent != Path.cwd():
            own["PYTHONSAFEPATH"] = "1"  # a random.py in the current folder is not the ranks'
        return own


class LocalRanks:
    """The processes of one replica, with a thread that hears them and one that speaks to them."""

    def __init__(self, size: int, job: Job, environment: Mapping[str, str], tell: Tell):
        self._tell, self._ended = tell, threading.Event()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._connections: list[Connection] = []
        self._last_words = [b""] * size
        self._outbox: SimpleQueue[bytes | None] = SimpleQueue()
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._hear, self._speak)]
        with socket.create_server((LOOPBACK, 0), backlog=size) as store:  # no other machine can reach it
            environment = {**environment, "MASTER_PORT": str(store.getsockname()[1])}
            for rank in range(size):
                self._start(rank, environment, store.fileno())
        self.send(pickle.dumps(job))
        for thread in self._threads:
            thread.start()

    def send(self, message: bytes) -> None:
        self._outbox.put(message)

    def end(self) -> None:
        self._ended.set()
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
        self._outbox.put(None)
        for thread in self._threads:
            thread.join()
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            _terminal(process).close()

    def _start(self, rank: int, environment: Mapping[str, str], store: int) -> None:
        own, others = Pipe()
        with others:
            process = subprocess.Popen(
                [sys.executable, "-m", PROGRAM, str(others.fileno()), str(store)],
                env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(others.fileno(), store),
            )
        os.set_blocking(_terminal(process).fileno(), False)
        self._connections.append(own)
        self._processes.append(process)

    def _speak(self) -> None:
        while (message := self._outbox.get()) is not None:
            for connection in self._connections:
                with suppress(OSError):  # a rank that is gone is noticed where it is heard
                    connection.send_bytes(message)

    def _hear(self) -> None:
        ranks: dict[object, int] = {connection: rank for rank, connection in enumerate(self._connections)}
        terminals: dict[object, int] = {_terminal(process): rank for rank, process in enumerate(self._processes)}
        while ranks:
            for ready in wait([*ranks, *terminals]):  # pyright: ignore[reportArgumentType]
                if ready in terminals:
                    if not self._read_terminal(terminals[ready]):
                        del terminals[ready]
                    continue
                rank = ranks[ready]
                try:
                    message: bytes | RankDied = self._connections[rank].recv_bytes()
                except (EOFError, OSError):
                    del ranks[ready]
                    message = RankDied(rank, self._why(rank))
                if not self._ended.is_set():
                    self._tell(rank, message)

    def _read_terminal(self, rank: int) -> bool:
        """Keep the end of what a rank has written; whether more may come."""
        terminal, some = _terminal(self._processes[rank]).fileno(), b"\0"
        with suppress(BlockingIOError):
            while some := os.read(terminal, 1 << 16):
                self._last_words[rank] = (self._last_words[rank] + some)[-LAST_WORDS:]
        return bool(some)

    def _why(self, rank: int) -> str:
        process = self._processes[rank]
        with suppress(subprocess.TimeoutExpired):
            process.wait(SECONDS_TO_CLOSE)
        code = process.poll()
        self._read_terminal(rank)
        if code is None:
            how = "closed its connection"
        elif code < 0:
            name = signal.Signals(-code).name
            how = f"was ended by {name}" + (" (the system does this when memory runs out)" * (name == "SIGKILL"))
        else:
            how = f"ended with exit code {code}"
        lines = self._last_words[rank].decode(errors="replace").strip().splitlines()
        return f"rank {rank} {how}" + (f"; its last words: {lines[-1].strip()}" if lines else "")


def _terminal(process: "subprocess.Popen[bytes]") -> IO[bytes]:
    assert process.stdout is not None
    return process.stdout


def visible_gpus() -> list[str]:
    """The GPUs of this machine that may be used, as CUDA_VISIBLE_DEVICES names them, without asking a driver."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    count = sum(path.name.removeprefix("nvidia").isdigit() for path in Path("/dev").glob("nvidia*"))
    return [str(number) for number in range(count)]
