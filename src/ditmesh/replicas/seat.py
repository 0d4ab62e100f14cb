"""One replica as its supervisor sees it: what its ranks said, when, and what that makes of it."""

import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ditmesh.replicas.engine import Ranks
from ditmesh.replicas.line import Entry
from ditmesh.replicas.messages import Answer, Beat, Draw, Drawn, Here, Left, NotDrawn, Ready, Stop
from ditmesh.replicas.requests import Rank, Replica

SLOW_START = 6  # times the patience with a rank that has not loaded: it may be held up where it cannot say so
ALIKE = 10  # seconds for all ranks to fail once one has: who has not by then waits in a collective, for ever
ATTEMPTS = 3  # of a replica that never was ready
FIRST_DELAY, LONGEST_DELAY = 0.5, 30  # seconds before lost ranks are started again
NEXT_LOOK = 5  # seconds between two looks for room


@dataclass
class Seat:
    """The place of a replica, which may have many ranks one after the other.

    Attributes:
        life: a number for each start of ranks; what those of another life say is not heard.
        turn: a number for each request that its ranks are given.
        began: when they were given the last one, by the clock of ``time.monotonic``.
        attempts: starts in a row that led to no finished request.
        due: when to start again, by the same clock.
        answers: of the ranks that are done with the request.
    """

    number: int
    size: int
    changed: Callable[[Replica], None]
    state: str = "waiting"
    why: str = ""
    ranks: Ranks | None = None
    entry: Entry | None = None
    life: int = 0
    turn: int = 0
    began: float = 0
    restarts: int = 0
    attempts: int = 0
    ever_ready: bool = False
    due: float = 0
    no_previews: str = ""
    facts: dict[int, Rank] = field(default_factory=dict[int, Rank])
    heard: dict[int, float] = field(default_factory=dict[int, float])
    ready: set[int] = field(default_factory=set[int])
    answers: dict[int, Answer] = field(default_factory=dict[int, Answer])
    failed_at: float = 0

    @property
    def replica(self) -> Replica:
        ranks = tuple(rank for _, rank in sorted(self.facts.items()))
        id = None if self.entry is None else self.entry.id
        return Replica(self.number, self.state, id, self.restarts, ranks, self.why, self.no_previews)

    def become(self, state: str) -> None:
        if state != self.state:
            self.state = state
            self.changed(self.replica)

    def begin(self, ranks: Ranks) -> None:
        """Its ranks are started."""
        self.ranks = ranks
        self.heard = dict.fromkeys(range(self.size), time.monotonic())
        self.become("starting")

    def draw(self, entry: Entry) -> None:
        """Its ranks are to draw a request."""
        assert self.ranks is not None
        self.entry, self.answers, self.failed_at, self.turn = entry, {}, 0, self.turn + 1
        self.began = time.monotonic()
        self.ranks.send(pickle.dumps(Draw(self.turn, entry.request)))
        self.become("drawing")

    def stop(self) -> None:
        """Its ranks are to leave the request between two steps."""
        assert self.ranks is not None
        self.ranks.send(pickle.dumps(Stop(self.turn)))

    def end(self) -> None:
        """End its ranks; what they said before is no more."""
        self.life += 1
        if self.ranks is not None:
            self.ranks.end()
        self.ranks, self.answers, self.ready, self.facts = None, {}, set(), {}

    def hear(self, rank: int, said: object) -> None:
        """Note what a rank says of itself."""
        if isinstance(said, Here):
            self.facts[rank] = Rank(rank, said.pid, said.host, said.device, 0)
            if len(self.facts) == self.size:
                self.become("loading")
        elif isinstance(said, Beat) and rank in self.facts:
            self.facts[rank] = replace(self.facts[rank], memory=said.memory)
        elif isinstance(said, Ready):
            self.no_previews = said.no_previews
            self.ready.add(rank)
            if len(self.ready) == self.size and self.state == "loading":
                self.ever_ready = True
                self.become("idle")
        elif isinstance(said, Drawn | NotDrawn | Left):
            self.answers[rank] = said
            if isinstance(said, NotDrawn) and not self.failed_at:
                self.failed_at = time.monotonic()

    @property
    def are_done(self) -> bool:
        """Whether all ranks are done with the request."""
        return len(self.answers) == self.size

    def apart(self) -> str:
        """Why the ranks are not in step, once all are done; empty if they are."""
        failed = {rank: x for rank, x in self.answers.items() if isinstance(x, NotDrawn) and not x.in_step}
        if not failed or len(failed) == self.size:
            return ""
        rank, answer = min(failed.items())
        return f"the request failed on rank {rank} and not on every rank, so they are out of step: {answer.why}"

    def silent(self, patience: float) -> str:
        """Why its ranks are lost, though none says so; empty if they are not."""
        now = time.monotonic()
        if self.entry is not None and self.failed_at and now > self.failed_at + ALIKE and not self.are_done:
            missing = sorted(set(range(self.size)) - set(self.answers))
            told = next(x.why for x in self.answers.values() if isinstance(x, NotDrawn))
            return f"the request failed, and ranks {missing} did not come back from it: {told}"
        limit = patience if len(self.ready) == self.size else SLOW_START * patience
        for rank, when in self.heard.items():
            if now > when + limit:
                return f"rank {rank} has said nothing for {limit:g} s, as a process does that is stopped"
        return ""

    def delay(self) -> float:
        """How long to wait before its ranks are started again."""
        return min(LONGEST_DELAY, FIRST_DELAY * 2 ** (self.attempts - 1))
