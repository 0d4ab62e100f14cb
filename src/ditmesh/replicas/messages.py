"""What the supervisor and the ranks of a replica tell each other; the ranks send the events of a request as well."""

from collections.abc import Mapping
from dataclasses import dataclass

from ditmesh.replicas.requests import Result


@dataclass(frozen=True)
class Draw:
    """To all ranks: the next request, pickled, with a number that no other one of this replica has."""

    turn: int
    request: bytes


@dataclass(frozen=True)
class Stop:
    """To all ranks: leave the request of this number between two of its steps."""

    turn: int


@dataclass(frozen=True)
class Here:
    """A rank has started, and goes on to load."""

    pid: int
    host: str
    device: str


@dataclass(frozen=True)
class Beat:
    """A rank lives; it says so every second, whatever it computes."""

    memory: int


@dataclass(frozen=True)
class Ready:
    """A rank has loaded; ``no_previews`` is why there can be none, or empty, and may turn out later."""

    no_previews: str


@dataclass(frozen=True)
class Broken:
    """A rank cannot go on, or cannot load; ``for_good`` if that would be so on any other as well."""

    why: str
    for_good: bool = False


@dataclass(frozen=True)
class Drawn:
    """A rank has done a request; the first rank has what came out."""

    id: str
    results: tuple[Result, ...]
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class NotDrawn:
    """A request failed on a rank; ``in_step`` if that was after the ranks had drawn it together."""

    id: str
    why: str
    in_step: bool = False


@dataclass(frozen=True)
class Left:
    """A rank has left a request after so many steps, as it was told to."""

    id: str
    step: int


Answer = Drawn | NotDrawn | Left
