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

import torch

from ditmesh.job import load
from ditmesh.job.classes import check_job
from ditmesh.job.description import Job
from ditmesh.job.devices import check_devices, device_of, dtype_of, name_of
from ditmesh.replicas.drawing import Easel
from ditmesh.replicas.messages import Beat, Broken, Draw, Here, Ready, Stop
from ditmesh.runtime.gang import RanksLost
from ditmesh.runtime.launch import describe
from ditmesh.runtime.world import World

SECONDS_BETWEEN_BEATS = 1


class Rank:
    """One rank of a replica. ``take`` may be called from any thread, ``run`` does the work."""

    def __init__(self, job: Job, world: World, say: Callable[[bytes], None]):
        """
        Args:
            say: brings a message to the supervisor; it is called from several threads, one at a time.
        """
        self._job, self._world, self._send = job, world, say
        self._device = device_of(world)
        self._saying = threading.Lock()
        self._next: SimpleQueue[Draw] = SimpleQueue()
        self._stop = 0  # the number of the request to leave

    def take(self, message: bytes) -> None:
        """Hear what the supervisor says."""
        told = pickle.loads(message)
        if isinstance(told, Draw):
            self._next.put(told)
        elif isinstance(told, Stop):
            self._stop = told.turn

    def run(self) -> None:
        """Load, and draw until this process ends; returns when it can draw no more, after saying why."""
        self._say(Here(os.getpid(), socket.gethostname(), name_of(self._device)))
        threading.Thread(target=self._beat, daemon=True).start()
        try:
            easel = self._load()
        except Exception as error:  # noqa: BLE001 - whatever keeps it from loading, the supervisor has to know
            self._say(Broken(describe(error), for_good=isinstance(error, ValueError)))
            return
        self._say(Ready(easel.no_previews))
        while True:
            order = self._next.get()
            try:
                self._say(easel.draw(pickle.loads(order.request), lambda: self._stop == order.turn))  # noqa: B023
            except (torch.AcceleratorError, RanksLost) as error:
                self._say(Broken(describe(error)))
                return

    def _load(self) -> Easel:
        check_devices(self._job, self._world.ranks_here)
        job = check_job(self._job, self._world)
        pipe, _ = load.prepare(job, dtype_of(job, self._device), self._device)
        pipe.set_progress_bar_config(disable=True)
        return Easel(pipe, job, self._world.rank == 0, self._say)

    def _beat(self) -> None:
        over = threading.Event()
        while not over.wait(SECONDS_BETWEEN_BEATS):
            self._say(Beat(self._memory()))

    def _memory(self) -> int:
        """Bytes that this process holds of its GPU, or of the machine if it has none."""
        if self._device.type == "cuda":
            return torch.cuda.memory_reserved(self._device)
        pages = int(Path("/proc/self/statm").read_text().split()[1]) if sys.platform == "linux" else 0
        return pages * os.sysconf("SC_PAGE_SIZE")

    def _say(self, what: Any) -> None:
        message = pickle.dumps(what)
        with self._saying:
            self._send(message)
