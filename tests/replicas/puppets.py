"""An engine whose ranks are played by the test: what they are told is kept, and the test says what they say."""

import pickle
from typing import Any

from ditmesh.job.description import Job
from ditmesh.replicas.engine import NoRoom, RankDied, Tell
from ditmesh.replicas.messages import Beat, Draw, Drawn, Here, Left, NotDrawn, Ready, Stop
from ditmesh.replicas.requests import Result


class Puppet:
    """The ranks of one replica."""

    def __init__(self, number: int, size: int, tell: Tell):
        self.number, self.size, self.tell, self.told, self.is_over = number, size, tell, list[Any](), False

    def send(self, message: bytes) -> None:
        self.told.append(pickle.loads(message))

    def end(self) -> None:
        self.is_over = True

    def say(self, *said: Any, ranks: Any = None) -> None:
        for rank in range(self.size) if ranks is None else ranks:
            for one in said:
                self.tell(rank, pickle.dumps(one))

    def load(self) -> None:
        self.say(Here(1, "here", "CPU"), Beat(7), Ready(""))

    @property
    def drawn(self) -> list[str]:
        """The ids of what it was told to draw."""
        return [pickle.loads(one.request).id for one in self.told if isinstance(one, Draw)]

    @property
    def stopped(self) -> int:
        return sum(isinstance(one, Stop) for one in self.told)

    def finish(self, content: bytes = b"picture") -> None:
        self.say(Drawn(self.drawn[-1], (Result(content, "image/png", {}, 1, 1),), {"steps": 1.0}))

    def leave(self, step: int) -> None:
        self.say(Left(self.drawn[-1], step))

    def fail(self, why: str, ranks: Any = None) -> None:
        self.say(NotDrawn(self.drawn[-1], why), ranks=ranks)

    def die(self, why: str = "rank 0 was ended by SIGKILL") -> None:
        self.tell(0, RankDied(0, why))


class Puppets:
    """The engine; ``room`` is how many replicas it has a place for."""

    def __init__(self, room: int = 9, for_good: bool = False):
        self.room, self.for_good, self.started, self.is_closed = room, for_good, list[Puppet](), False

    def start(self, replica: int, job: Job, tell: Tell) -> Puppet:
        if replica >= self.room:
            raise NoRoom(f"there is room for {self.room}", for_good=self.for_good)
        self.started.append(Puppet(replica, job.layout.world_size, tell))
        return self.started[-1]

    def close(self) -> None:
        self.is_closed = True
