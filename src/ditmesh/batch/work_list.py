"""Data parallelism: replicas take work from one list, whoever is free first, and the ranks of one stay in step.

Everything goes through the job's store, never through a process group: a rank that failed can still say so while the
others wait in a collective, and a layout of replicas alone needs no process group at all.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from ditmesh.runtime.store import FOREVER
from ditmesh.upstream.process_groups import PrefixStore

OURS, REPORTS = "taken", "reports"


@dataclass(frozen=True)
class Place:
    """Where a rank stands: in which replica, and as which of its ranks; the first one leads it."""

    replica: int = 0
    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    @classmethod
    def of(cls, rank: int, world_size: int, dp_size: int) -> "Place":
        """The place of a rank of the world; ``dp`` is the outermost axis, so a replica's ranks are neighbours."""
        size = world_size // dp_size
        return cls(rank // size, rank % size, size)


class WorkList:
    """Numbers 0, 1, 2 ..., each handed out once, and what the ranks tell each other about them."""

    def __init__(self, store: Any, place: Place):
        self.place = place
        self._job = store
        self._replica = PrefixStore(f"replica{place.replica}", store)
        self._shared = self._agreed = 0

    def take(self) -> int:
        """The next number that no replica has taken; for leaders."""
        return self._job.add(OURS, 1) - 1

    def publish(self, key: str, value: bytes) -> None:
        """Let every rank of the job know."""
        self._job.set(key, value)

    def read(self, key: str) -> bytes:
        """What a rank published, when it has."""
        return self._job.get(key)

    def share(self, text: str | None) -> str:
        """The leader's text, on every rank of its replica; the others pass None."""
        key, self._shared = f"shared/{self._shared}", self._shared + 1
        if self.place.size == 1:
            assert text is not None
            return text
        if text is not None:
            self._replica.set(key, text)
            return text
        return self._replica.get(key).decode()

    def agree(self, outcome: str, patience: timedelta = FOREVER) -> list[str | None]:
        """What became of one piece of work on each rank of the replica.

        Args:
            outcome: what became of it here.
            patience: how long to wait for the others; None stands for who has not answered by then.
        """
        if self.place.size == 1:
            return [outcome]
        mine, self._agreed = f"agreed/{self._agreed}", self._agreed + 1
        keys = [f"{mine}/{rank}" for rank in range(self.place.size)]
        self._replica.set(keys[self.place.rank], outcome)
        try:
            self._replica.wait(keys, patience)
        except dist.DistStoreError:
            return [self._replica.get(key).decode() if self._replica.check([key]) else None for key in keys]
        outcomes: list[str | None] = [self._replica.get(key).decode() for key in keys]
        self._forget()
        return outcomes

    def _forget(self) -> None:
        """Whoever answered the last question has read the answers to the one before, and the text that came then."""
        self._replica.delete_key(f"agreed/{self._agreed - 2}/{self.place.rank}")
        if self.place.leads:
            self._replica.delete_key(f"shared/{self._shared - 2}")

    def report(self, record: str) -> None:
        """Put a record in line for the one that keeps the books."""
        self._job.queue_push(REPORTS, record)

    def own_line(self) -> "Reports":
        """The records in line, read over a connection of its own: for a thread beside this one."""
        return Reports(self._job.clone())


class Reports:
    """The records that were reported, in the order they were."""

    def __init__(self, store: Any):
        self._store = store

    def next(self) -> str | None:
        """The next record; None if there is none now."""
        try:
            return self._store.queue_pop(REPORTS, False).decode()
        except dist.QueueEmptyError:
            return None
