"""The supervisor: takes requests for replicas, and tells what becomes of them."""

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType

from ditmesh.job.description import Job
from ditmesh.replicas.books import Books
from ditmesh.replicas.engine import Engine
from ditmesh.replicas.line import CANCEL, PAUSE, Line
from ditmesh.replicas.requests import Event, Replica, Request

SECONDS_BETWEEN_LOOKS = 0.25  # for ranks that are silent or due


class Supervisor:
    """Draws requests on replicas. It is no rank, and imports no torch; any thread may call it.

    Use it as a context: it starts the replicas, and no rank outlives it. A thread of its own does the work; it hears
    calls, ranks and time, one thing after the other.
    """

    def __init__(
        self,
        job: Job,
        engine: Engine,
        replicas: range,
        on_event: Callable[[Event], None],
        loras: Mapping[str, Path] | None = None,
        patience: float = 20,
    ):
        """
        Args:
            job: of one replica, its layout without dp.
            replicas: how many there may be: range(2, 5) for two at least and four at most.
            on_event: hears all that happens, on the supervisor's thread, and must be quick.
            loras: files of LoRA weights by the names that requests use.
            patience: seconds that a rank may be silent.

        Raises:
            ValueError: no replicas, or replicas in the layout as well.
        """
        if not replicas or replicas.start < 1 or job.layout.dp_size > 1:
            raise ValueError(f"{replicas} replicas of {job.layout}; ask for one or more, of a layout without dp.")
        job = replace(job, adapters={name: Path(file) for name, file in (loras or {}).items()})
        self._line, self._loras = Line(), tuple(job.adapters)
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._books = Books(job, engine, replicas, self._line, on_event, self._inbox.put, patience)
        self._lock, self._is_closed, self._ended_well = threading.Lock(), False, False
        self._thread = threading.Thread(target=self._work, name="supervisor", daemon=True)

    def __enter__(self) -> "Supervisor":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; finish what is queued unless there is an error."""
        self.close(drain=error is None)

    @property
    def queued(self) -> int:
        """How many requests wait in line."""
        return self._line.length

    @property
    def broken(self) -> str:
        """Why no replica can draw, now or ever again; empty while one can or may."""
        return self._books.broken

    def submit(self, request: Request) -> None:
        """Put a request in line; returns at once.

        Raises:
            ValueError: its id is in use, its LoRA has no such name, or the supervisor is closed.
        """
        for name, _ in request.lora:
            if name not in self._loras:
                raise ValueError(f"there are no LoRA weights {name!r}; there are: {', '.join(self._loras) or 'none'}.")
        with self._lock:
            if self._is_closed or not self._thread.is_alive():
                raise ValueError("the supervisor is closed, and takes no requests.")
            self._inbox.put(partial(self._books.enter, self._line.add(request)))

    def cancel(self, id: str) -> None:
        """Have a request dropped: at once if it waits, between two steps if it is drawn; an unknown id is nothing."""
        self._inbox.put(partial(self._books.stop, id, CANCEL))

    def pause(self, id: str) -> None:
        """Take a request out of line, or out of its replica between two steps; the replica goes on to the next.

        What was drawn of it is given up: it begins anew when it is resumed, on whichever replica is free, which makes
        the same bits for every pipeline, scheduler and cache. It costs the steps that were done.
        """
        self._inbox.put(partial(self._books.stop, id, PAUSE))

    def resume(self, id: str) -> None:
        """Put a paused request back in line, in its old place."""
        self._inbox.put(partial(self._books.resume, id))

    def replicas(self) -> tuple[Replica, ...]:
        """What each replica is at."""
        return self._books.replicas()

    def close(self, drain: bool) -> None:
        """End, with what is queued finished before if ``drain``; returns when every rank is gone.

        What is paused is cancelled, and all that is left if not ``drain``.

        Raises:
            RuntimeError: the supervisor's thread failed; its own error says why.
        """
        with self._lock:
            self._is_closed = True
            self._inbox.put(partial(self._books.close, drain))
        self._thread.join()
        if not self._ended_well:
            raise RuntimeError("the supervisor's thread failed; its own error says why.")

    def _work(self) -> None:
        try:
            while not self._books.are_closed:
                self._books.look()
                with suppress(Empty):
                    self._inbox.get(timeout=SECONDS_BETWEEN_LOOKS)()
            self._ended_well = True
        finally:
            self._books.end(tells=self._ended_well)
