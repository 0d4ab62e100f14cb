"""Which rank this process is, as torchrun or our own launcher says."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    """Which rank this process is; a process that nobody launched is rank 0 of 1.

    Attributes:
        ranks_here: how many of the ranks run on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    ranks_here: int = 1
    launched: bool = False

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> "World":
        """Read what torchrun sets."""
        if "RANK" not in environment or "WORLD_SIZE" not in environment:
            return cls()
        rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        local_rank = int(environment.get("LOCAL_RANK", rank))
        return cls(rank, size, local_rank, int(environment.get("LOCAL_WORLD_SIZE", size)), launched=True)

    def ranks(self, asked: int | None, flag: str) -> int | None:
        """How many ranks there are to be: those that were launched, or as many as a flag asks for, or None.

        Raises:
            ValueError: the flag asks for other than there are.
        """
        if self.launched and asked not in (None, self.size):
            raise ValueError(f"{flag} {asked}, but torchrun started {self.size} ranks; leave {flag} out.")
        return self.size if self.launched else asked
