"""Several machines, one job: their launchers meet at an address, agree on what the job is, and end together."""

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any

BEAT = 0.5  # seconds between two signs of life
SILENCE = 8  # seconds without one after which a machine counts as gone
PATIENCE = 600  # seconds that a machine waits for the others to come, and
QUIET = 5  # before it says that it does
ANSWER = timedelta(seconds=30)  # of machine 0, which holds the store
SECONDS_TO_AGREE = 3  # after a failure, for the others to tell of theirs, and
UNHEARD = 2.5  # of who gives no sign of life either
SECONDS_TO_LEAVE = 8  # that machine 0 stays for the others, who may have to end their ranks first
FAILED = 1
# What an end came from, most telling first.
FROM_OUTSIDE, BY_ITSELF, UNTOLD, WITH_OTHERS, WELL = range(5)


@dataclass(frozen=True)
class Nodes:
    """How several machines meet: how many they are, which one this is, and the address of number 0."""

    count: int
    node: int
    host: str
    port: int


@dataclass(frozen=True, order=True)
class End:
    """How the ranks of a machine ended; of the ends of several machines the least is the cause of the others."""

    origin: int
    time_ns: int
    code: int
    words: str = ""


def check_alike(theirs: Mapping[str, str], ours: Mapping[str, str], who: str, than: str) -> None:
    """Refuse to begin where two machines were told to do different things.

    Raises:
        ValueError: what is different, and how.
    """
    names = [name for name in {**ours, **theirs} if theirs.get(name) != ours.get(name)]
    if names:
        told = "; ".join(f"{name} {theirs.get(name, 'is missing')}, not {ours.get(name, 'missing')}" for name in names)
        raise ValueError(f"{who} has another job than {than}: {told}. Give every machine the same command and files.")


class Machines:
    """The machines of a job, as seen by the launcher of one of them: a context around the run of its ranks.

    Raises:
        ValueError: on entering, they did not meet, or were told to do different things.
    """

    def __init__(self, nodes: Nodes, job: Mapping[str, str]):
        self.nodes = nodes
        self._job = {"--nnodes": str(nodes.count), **job}
        self._others = [node for node in range(nodes.count) if node != nodes.node]
        self._beats: dict[int, tuple[int, float]] = {}  # of each machine the last one, and when it came
        self._stopped, self._heard, self._lost = threading.Event(), 0.0, False
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._listen, self._watch)]
        self._cause: End | None = None  # why another machine ended, and so this one

    def __enter__(self) -> "Machines":
        self._store = reach(self.nodes)
        if self._store.add(f"here/{self.nodes.node}", 1) > 1:
            raise ValueError(
                f"--node_rank {self.nodes.node}: that machine has come already; number the machines from 0 to "
                f"{self.nodes.count - 1}, each once."
            )
        try:
            self._meet()
        except ValueError as error:
            self._leave(End(BY_ITSELF, time.time_ns(), FAILED, str(error)))
            raise
        self._heard = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stopped.set()

    def agree(self, end: End) -> End:
        """Tell the others how this machine ended, and learn which of all their ends was the first."""
        self._stopped.set()
        self._threads[1].join()
        if self._cause is None:
            return self._leave(end)
        self._leave(End(WITH_OTHERS, time.time_ns(), self._cause.code))
        return self._cause

    def _meet(self) -> None:
        """Wait for the others, and compare what they are to do."""
        node, address = self.nodes.node, f"{self.nodes.host}:{self.nodes.port}"
        self._store.set(f"job/{node}", json.dumps(self._job))
        waiting, missing = Waiting(), list(self._others)
        while missing:
            gone = self._look()
            if gone is not None:
                raise ValueError(gone.words)
            here = [other for other in missing if self._store.check([f"job/{other}"])]
            for other in here:
                theirs = json.loads(self._store.get(f"job/{other}"))
                (low, first), (high, second) = sorted([(other, theirs), (node, self._job)], key=lambda pair: pair[0])
                check_alike(second, first, f"machine {high}", f"machine {low}")
                self._beats[other] = 0, time.monotonic()
            missing = [other for other in missing if other not in here]
            if missing:
                waiting.go_on(f"{_machines(missing)} at {address}")

    def _look(self) -> End | None:
        """Give a sign of life, and see whether another machine has failed, or gives none any more."""
        import torch.distributed as dist

        try:
            self._store.add(f"beat/{self.nodes.node}", 1)
            for other in self._beats:
                end = self._end_of(other)
                if end is not None and end.code:
                    told = end.words or f"machine {other} ended with exit code {end.code}"
                    return End(end.origin, end.time_ns, end.code, told)
                if end is None and self._silence_of(other) > SILENCE:
                    return _gone(other)
        except dist.DistError:
            self._lost = True
            return _gone(0)
        return None

    def _end_of(self, node: int) -> End | None:
        return End(**json.loads(self._store.get(f"end/{node}"))) if self._store.check([f"end/{node}"]) else None

    def _silence_of(self, node: int) -> float:
        """For how many seconds there was no sign of life."""
        (last, when), beat = self._beats[node], self._store.add(f"beat/{node}", 0)
        if beat != last:
            last, when = self._beats[node] = beat, time.monotonic()
        return time.monotonic() - when

    def _listen(self) -> None:
        while self._cause is None and not self._stopped.wait(BEAT):
            cause = self._look()
            self._heard = time.monotonic()
            if not self._stopped.is_set():
                self._cause = cause

    def _watch(self) -> None:
        """End this launcher, and with it its ranks, when another machine has failed."""
        while self._cause is None:
            if self._stopped.wait(BEAT / 5):
                return
            if time.monotonic() - self._heard > SILENCE:  # the store does not answer, as after a power cut
                self._lost, self._cause = True, _gone(0)
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            os.kill(os.getpid(), signal.SIGTERM)  # torch.distributed.run ends its ranks
            if self._stopped.wait(SECONDS_TO_LEAVE):
                return
        print(self._cause.words, file=sys.stderr, flush=True)
        os._exit(self._cause.code)  # the ranks die with it

    def _leave(self, end: End) -> End:
        """Tell how this machine ended, and stay until the others need it no more; the first of all ends."""
        import torch.distributed as dist

        began, ends = time.monotonic(), {}
        try:
            if not self._lost:
                self._store.set(f"end/{self.nodes.node}", json.dumps(asdict(end)))
            while not self._lost and len(ends) < len(self._beats):
                ends = {other: found for other in self._beats if (found := self._end_of(other)) is not None}
                silent = [other for other in self._beats if other not in ends and self._silence_of(other) > UNHEARD]
                waited = time.monotonic() - began
                agreed = end.origin in (WITH_OTHERS, WELL) or waited > SECONDS_TO_AGREE
                if (agreed and self.nodes.node != 0) or waited > SECONDS_TO_LEAVE:
                    break
                if silent and end.origin != WELL and waited > SECONDS_TO_AGREE:
                    words = f"nothing is heard of {_machines(silent)} any more; here {end.words or 'the ranks ended'}"
                    return End(end.origin, end.time_ns, end.code, words)
                time.sleep(BEAT / 5)
        except dist.DistError:
            pass  # machine 0 has left already
        return min([end, *(one for one in ends.values() if one.code)]) if end.code else end


class Waiting:
    """Waiting for others to come: in silence at first, then saying so once, and not for ever."""

    def __init__(self) -> None:
        self._began, self._told = time.monotonic(), False

    def go_on(self, what: str) -> None:
        """Wait a little longer.

        Raises:
            ValueError: it has been long enough.
        """
        waited = time.monotonic() - self._began
        if waited > PATIENCE:
            raise ValueError(f"waited {PATIENCE} s for {what}, in vain.")
        if waited > QUIET and not self._told:
            self._told = True
            print(f"waiting for {what}", file=sys.stderr, flush=True)
        time.sleep(BEAT / 5)


def _gone(node: int) -> End:
    return End(FROM_OUTSIDE, time.time_ns(), FAILED, f"machine {node} is gone, and all ranks were stopped")


def _machines(nodes: list[int]) -> str:
    return f"machine{'s' if len(nodes) > 1 else ''} {', '.join(map(str, nodes))}"


def reach(nodes: Nodes) -> Any:
    """The store that machine 0 holds, as soon as it does.

    Raises:
        ValueError: this is machine 0 and cannot hold it, or nothing answers.
    """
    import torch.distributed as dist

    from ditmesh.upstream.process_groups import TCPStore

    first, address = nodes.node == 0, f"{nodes.host}:{nodes.port}"
    if not first:
        _wait_for(nodes, address)
    try:
        # In one process the stores of one port are one: torch.distributed.run's is this one as well.
        return TCPStore(nodes.host, nodes.port, None, first, ANSWER, wait_for_workers=False, multi_tenant=True)
    except dist.DistError as error:
        if first:
            raise ValueError(
                f"machine 0 cannot hold {address} ({_first_line(error)}); --rdzv_endpoint needs an address of "
                f"machine 0 and a port that is free there, and --node_rank 0 is for that machine alone."
            ) from error
        raise ValueError(f"what answers at {address} is not machine 0 ({_first_line(error)}).") from error


def _wait_for(nodes: Nodes, address: str) -> None:
    """Return when something listens there. In Python, which an interrupt can end, unlike the store's own waiting."""
    waiting = Waiting()
    while True:
        try:
            socket.create_connection((nodes.host, nodes.port), timeout=2).close()
        except OSError as error:
            waiting.go_on(f"machine 0 at {address}: {error.strerror or error}")
        else:
            return


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0]
