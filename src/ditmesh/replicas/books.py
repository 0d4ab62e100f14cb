"""The books of a supervisor, kept by its thread alone: who draws what, what is lost, and what is started again."""

import pickle
import time
from collections.abc import Callable
from functools import partial

from ditmesh.job.description import Job
from ditmesh.replicas.engine import Engine, NoRoom, RankDied
from ditmesh.replicas.line import CANCEL, PAUSE, RESUME, Entry, Line
from ditmesh.replicas.messages import Broken, Drawn, Left
from ditmesh.replicas.requests import (
    Cancelled,
    Event,
    Failed,
    Finished,
    Paused,
    Preview,
    Queued,
    Replica,
    ReplicaChanged,
    Resumed,
    Retried,
    Started,
    Stepped,
)
from ditmesh.replicas.seat import ATTEMPTS, NEXT_LOOK, Seat


class Books:
    """What becomes of each request and each replica.

    Attributes:
        broken: why no replica can draw, now or ever again; empty while one can or may.
    """

    def __init__(
        self,
        job: Job,
        engine: Engine,
        replicas: range,
        line: Line,
        tell: Callable[[Event], None],
        later: Callable[[Callable[[], None]], None],
        patience: float,
    ):
        """``later``: has something done on the thread that keeps the books; any thread may call it."""
        self._job, self._engine, self._least, self._line = job, engine, replicas.start, line
        self._tell, self._later, self._patience = tell, later, patience
        self._seats = [Seat(number, job.layout.world_size, self._changed) for number in range(replicas[-1])]
        self._looked = time.monotonic()
        self.broken = ""
        self._drains: bool | None = None  # None while more may come

    def replicas(self) -> tuple[Replica, ...]:
        """What each replica is at; any thread may ask."""
        return tuple(seat.replica for seat in self._seats)

    @property
    def are_closed(self) -> bool:
        """Whether all is done that was to be done before the end; what is paused is not."""
        drawn = [seat.entry for seat in self._seats if seat.entry is not None]
        return self._drains is False or (self._drains is True and not drawn and not self._line.length)

    def close(self, drain: bool) -> None:
        """Take no more; ``drain`` if what is in line is to be drawn before the end."""
        self._drains = drain

    def end(self, tells: bool) -> None:
        """End every rank, and cancel what is not done; ``tells`` if somebody still listens."""
        for seat in self._seats:
            seat.end()
        self._engine.close()
        if tells:
            for entry in self._line.known:
                self._finish(entry, Cancelled(entry.id))
            for seat in self._seats:
                seat.become("gone")

    def _changed(self, replica: Replica) -> None:
        self._tell(ReplicaChanged(replica))

    def enter(self, entry: Entry) -> None:
        """A request has come."""
        self._tell(Queued(entry.id))
        self._line.put(entry)
        if self.broken:
            self._fail_all()

    def stop(self, id: str, what: str) -> None:
        """Somebody wants a request cancelled or paused."""
        entry = self._line.find(id)
        if entry is None or (entry.wanted == CANCEL and what == PAUSE):
            return
        seat = next((seat for seat in self._seats if seat.entry is entry), None)
        if seat is None:
            if what == CANCEL:
                self._finish(entry, Cancelled(id))
            elif entry.is_in_line:
                self._pause(entry)
            return
        entry.wanted = what
        seat.stop()

    def resume(self, id: str) -> None:
        """Somebody wants a paused request to be drawn."""
        entry = self._line.find(id)
        if entry is None or entry.is_in_line:
            return
        if not any(seat.entry is entry for seat in self._seats):
            self._back_in_line(entry, Resumed(id))
        elif entry.wanted == PAUSE:
            entry.wanted = RESUME  # its ranks have not left it yet

    def _pause(self, entry: Entry) -> None:
        self._line.take_out(entry)
        self._tell(Paused(entry.id, entry.step))
        if entry.wanted == RESUME:
            self._back_in_line(entry, Resumed(entry.id))

    def _back_in_line(self, entry: Entry, event: Event) -> None:
        entry.wanted, entry.step = "", 0
        self._tell(event)
        self._line.put(entry)

    def _finish(self, entry: Entry, event: Event) -> None:
        self._line.forget(entry)
        self._tell(event)

    def _start(self, seat: Seat) -> None:
        life = seat.life

        def tell(rank: int, message: bytes | RankDied | NoRoom) -> None:
            self._later(partial(self._hear, seat, life, rank, message))

        try:
            ranks = self._engine.start(seat.number, self._job, tell)
        except NoRoom as error:
            self._wait_for_room(seat, error)
        else:
            seat.begin(ranks)

    def _wait_for_room(self, seat: Seat, error: NoRoom) -> None:
        seat.end()
        seat.why, seat.due = str(error), time.monotonic() + NEXT_LOOK
        if error.for_good:
            self._give_up(seat, is_needed=seat.number < self._least)
        else:
            seat.become("waiting")

    def _hear(self, seat: Seat, life: int, rank: int, message: bytes | RankDied | NoRoom) -> None:
        if life != seat.life:
            return
        if isinstance(message, RankDied):
            self._lose(seat, message.why)
            return
        if isinstance(message, NoRoom):
            self._wait_for_room(seat, message)
            return
        seat.heard[rank] = time.monotonic()
        said = pickle.loads(message)
        seat.hear(rank, said)
        if isinstance(said, Broken):
            self._lose(seat, f"rank {rank}: {said.why}", said.for_good and not seat.ever_ready)
        elif isinstance(said, Stepped | Preview) and seat.entry is not None:
            seat.entry.step = said.step if isinstance(said, Stepped) else seat.entry.step
            self._tell(said)
        elif seat.entry is not None and seat.are_done:
            self._settle(seat, seat.entry)

    def _settle(self, seat: Seat, entry: Entry) -> None:
        """All ranks are done with a request."""
        if why := seat.apart():
            self._lose(seat, why)
            return
        answer, seat.entry, seat.attempts = seat.answers[0], None, 0
        seat.become("idle")
        if isinstance(answer, Left):
            entry.step = answer.step
        if entry.wanted == CANCEL:
            self._finish(entry, Cancelled(entry.id))
        elif isinstance(answer, Left):
            self._pause(entry)
        elif isinstance(answer, Drawn):
            queued = {"queued": seat.began - entry.since}
            self._finish(entry, Finished(entry.id, answer.results, {**queued, **answer.seconds}))
        else:
            self._finish(entry, Failed(entry.id, answer.why, by_request=True))

    def _lose(self, seat: Seat, why: str, for_good: bool = False) -> None:
        """The ranks of a replica are lost: end them all, and start them again after a while."""
        entry, seat.entry = seat.entry, None
        seat.end()
        seat.restarts, seat.attempts, seat.why = seat.restarts + 1, seat.attempts + 1, why
        seat.due = time.monotonic() + seat.delay()
        if entry is not None:
            self._take_back(entry, why)
        if for_good or (not seat.ever_ready and seat.attempts >= ATTEMPTS):
            self._give_up(seat)
        else:
            seat.become("restarting")

    def _take_back(self, entry: Entry, why: str) -> None:
        """A request has lost its replica."""
        if entry.wanted == CANCEL:
            self._finish(entry, Cancelled(entry.id))
        elif entry.wanted:
            self._pause(entry)
        elif entry.retried:
            self._finish(entry, Failed(entry.id, why, by_request=False))
        else:
            entry.retried = True
            self._back_in_line(entry, Retried(entry.id, why))

    def _give_up(self, seat: Seat, is_needed: bool = False) -> None:
        """A replica is not started again; without any, or without one that has to be, nothing is drawn."""
        seat.become("gone")
        if is_needed or all(seat.state == "gone" for seat in self._seats):
            self.broken = seat.why
            self._fail_all()

    def _fail_all(self) -> None:
        """Fail what no replica draws."""
        drawn = [seat.entry for seat in self._seats]
        for entry in self._line.known:
            if entry.is_entered and entry not in drawn:
                self._finish(entry, Failed(entry.id, self.broken, by_request=False))

    def look(self) -> None:
        """Start what is due, lose what is silent, and give idle replicas what is in line."""
        now = time.monotonic()
        was_held_up, self._looked = now > self._looked + self._patience / 2, now
        for seat in self._seats:
            if was_held_up:  # this process itself, and what ranks said meanwhile is still to be heard
                seat.heard = dict.fromkeys(seat.heard, now)
            if seat.state in ("waiting", "restarting") and now >= seat.due and not self.broken:
                self._start(seat)
            elif seat.ranks is not None and (why := seat.silent(self._patience)):
                self._lose(seat, why)
            if seat.state == "idle" and (entry := self._line.next()) is not None:
                self._tell(Started(entry.id, seat.number))
                seat.draw(entry)
