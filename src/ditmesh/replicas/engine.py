"""What an engine does for the supervisor: start the ranks of a replica somewhere, carry messages, end them."""

from collections.abc import Callable
from typing import Protocol

from ditmesh.job.description import Job


class RankDied(Exception):
    """A rank is gone, whatever its exit code; ``why`` names it and ends with its last words, if it had any."""

    def __init__(self, rank: int, why: str):
        super().__init__(why)
        self.rank, self.why = rank, why


class NoRoom(Exception):
    """There is no place for a replica, now or ``for_good``: what it needs, and what there is."""

    def __init__(self, why: str, for_good: bool = False):
        super().__init__(why)
        self.for_good = for_good


Tell = Callable[[int, bytes | RankDied | NoRoom], None]  # what a rank says, or what became of it; from any thread


class Ranks(Protocol):
    """The ranks of one replica, from their start to their end."""

    def send(self, message: bytes) -> None:
        """Bring a message to every rank, in order; returns at once, also if a rank is gone or does not listen."""
        ...

    def end(self) -> None:
        """Kill every rank, and return when they are gone."""
        ...


class Engine(Protocol):
    """Where the ranks of replicas run; each runs ``replicas.rank.Rank``. The supervisor calls it from one thread."""

    def start(self, replica: int, job: Job, tell: Tell) -> Ranks:
        """Begin the ranks of a replica; returns at once, without waiting for the model.

        Args:
            job: of one replica: its layout has as many ranks as there are to be.
            tell: hears each message of a rank, and once if a rank dies or there turns out to be no room.

        Raises:
            NoRoom: there is no place for it now.
        """
        ...

    def close(self) -> None:
        """Give back what the engine holds; every replica was ended before."""
        ...
