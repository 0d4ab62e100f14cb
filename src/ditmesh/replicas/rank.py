"""The program of a rank, whatever engine started it: load the job once, then draw what it is told to."""

import os
import pickle
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from ditmesh.job.description import Job
from ditmesh.replicas.messages import Beat, Broken, Draw, Here, Ready, Stop
from ditmesh.runtime.launch import describe
from ditmesh.runtime.world import World

SECONDS_BETWEEN_BEATS = 1


class Rank:
    """One rank of a replica; from its making on it says that it lives.

    ``take`` may be called from any thread, ``run`` does the work.
    """

    def __init__(self, job: Job, world: World, say: Callable[[bytes], None]):
        """
        Args:
            say: brings a message to the supervisor; it is called from several threads, one at a time.
        """
        self._job, self._world, self._send = job, world, say
        self._saying = threading.Lock()
        self._next: SimpleQueue[Draw] = SimpleQueue()
        self._stop = 0  # the number of the request to leave
        self._memory: Callable[[], int] = _of_process
        threading.Thread(target=self._beat, daemon=True).start()

    def take(self, message: bytes) -> None:
        """Hear what the supervisor says."""
        told = pickle.loads(message)
        if isinstance(told, Draw):
            self._next.put(told)
        elif isinstance(told, Stop):
            self._stop = told.turn

    def run(self) -> None:
        """Load, and draw until this process ends; returns when it can draw no more, after saying why."""
        # Imported here: it takes its time, and meanwhile this rank says that it lives.
        import torch

        from ditmesh.job.devices import device_of, name_of
        from ditmesh.replicas.drawing import LOST, set_up

        device = device_of(self._world)
        if device.type == "cuda":
            self._memory = lambda: torch.cuda.memory_reserved(device)
        self._say(Here(os.getpid(), socket.gethostname(), name_of(device)))
        try:
            easel = set_up(self._job, self._world, device, self._say)
        except Exception as error:  # noqa: BLE001 - whatever keeps it from loading, the supervisor has to know
            self._say(Broken(describe(error), for_good=isinstance(error, ValueError)))
            return
        self._say(Ready(easel.no_previews))
        while True:
            order = self._next.get()
            try:
                self._say(easel.draw(pickle.loads(order.request), lambda: self._stop == order.turn))  # noqa: B023
            except LOST as error:
                self._say(Broken(describe(error)))
                return

    def _beat(self) -> None:
        over = threading.Event()
        while not over.wait(SECONDS_BETWEEN_BEATS):
            self._say(Beat(self._memory()))

    def _say(self, what: Any) -> None:
        message = pickle.dumps(what)
        with self._saying:
            self._send(message)


def _of_process() -> int:
    """Bytes of the machine's memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if sys.platform == "linux" else 0
    return pages * os.sysconf("SC_PAGE_SIZE")
