"""The supervisor: holds the queue and the books, gives requests to replicas, and starts lost ones again."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from ditmesh.job.description import Job
from ditmesh.replicas.engine import Engine
from ditmesh.replicas.requests import Event, Replica, Request


class Supervisor:
    """Draws requests on replicas. It is no rank, and imports no torch; any thread may call it.

    Use it as a context: it starts the replicas, and no rank outlives it.
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
        """

    def __enter__(self) -> "Supervisor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; finish what is queued unless there is an error."""

    @property
    def queued(self) -> int:
        """How many requests wait in line."""
        return 0

    @property
    def broken(self) -> str:
        """Why no replica can draw, now or ever again; empty while one can or may."""
        return ""

    def submit(self, request: Request) -> None:
        """Put a request in line; returns at once.

        Raises:
            ValueError: its id is in use, its LoRA has no such name, or the supervisor is closed.
        """

    def cancel(self, id: str) -> None:
        """Have a request dropped: at once if it waits, between two steps if it is drawn; an unknown id is nothing."""

    def pause(self, id: str) -> None:
        """Take a request out of line, or out of its replica between two steps; the replica goes on to the next."""

    def resume(self, id: str) -> None:
        """Put a paused request back in line, in its old place."""

    def replicas(self) -> tuple[Replica, ...]:
        """What each replica is at."""
        return ()

    def close(self, drain: bool) -> None:
        """End, with what is queued finished before if ``drain``; returns when every rank is gone."""
