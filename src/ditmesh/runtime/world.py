"""Which rank this process is, as torchrun or our own launcher says."""

from collections.abc import Mapping
from dataclasses import dataclass

NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")  # of what torchrun sets
CURE = "unset RANK, or start by torchrun."


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
        """Read what torchrun sets.

        Raises:
            ValueError: it is not what torchrun sets.
        """
        if "RANK" not in environment:
            return cls()
        check_launched(environment, "WORLD_SIZE")
        told = {name: environment[name] for name in NUMBERS if name in environment}
        found = {name: int(value) if value.isascii() and value.isdigit() else -1 for name, value in told.items()}
        rank, size = found["RANK"], found["WORLD_SIZE"]
        local_rank, here = found.get("LOCAL_RANK", rank), found.get("LOCAL_WORLD_SIZE", size)
        if min(found.values()) < 0 or not (rank < size and local_rank < here <= size):
            why = ", ".join(f"{name}={value}" for name, value in told.items())
            raise ValueError(f"there can be no rank of {why}; {CURE}")
        return cls(rank, size, local_rank, here, launched=True)

    def ranks(self, asked: int | None, flag: str) -> int | None:
        """How many ranks there are to be: those that were launched, or as many as a flag asks for, or None.

        Raises:
            ValueError: the flag asks for other than there are.
        """
        if self.launched and asked not in (None, self.size):
            raise ValueError(f"{flag} {asked}, but torchrun started {self.size} ranks; leave {flag} out.")
        return self.size if self.launched else asked


def check_launched(environment: Mapping[str, str], *names: str) -> None:
    """Refuse a RANK without the other variables that torchrun sets.

    Raises:
        ValueError: one is missing.
    """
    for name in names or ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        if "RANK" in environment and not environment.get(name):
            raise ValueError(f"RANK is set, as by torchrun, but {name} is not; {CURE}")


ALONE = World()
