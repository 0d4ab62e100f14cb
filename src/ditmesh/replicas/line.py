"""The requests a supervisor knows: in line, drawn, or paused; those that are done are forgotten."""

import pickle
import threading
import time
from bisect import insort
from dataclasses import dataclass, field
from itertools import count

from ditmesh.replicas.requests import Request

CANCEL, PAUSE, RESUME = "cancel", "pause", "resume"


@dataclass
class Entry:
    """A request that is not done.

    Attributes:
        request: it, pickled.
        place: in line; it stays the same when the request comes back.
        since: when it was submitted, by the clock of ``time.monotonic``.
        step: how many steps were done when that was heard last.
        wanted: what is to become of it when its ranks leave it between two steps: CANCEL, PAUSE, RESUME (it was
            resumed before they did), or nothing.
        retried: it lost a replica already.
        is_entered: the supervisor's thread knows it.
        is_in_line: it is neither drawn nor paused.
    """

    id: str
    request: bytes
    place: tuple[int, int]
    since: float = field(default_factory=time.monotonic)
    step: int = 0
    wanted: str = ""
    retried: bool = False
    is_entered: bool = False
    is_in_line: bool = True


class Line:
    """All that is not done. Any thread may add to it and ask how long it is; the rest is the supervisor's own.

    The highest priority is first, and among equals who came first.
    """

    def __init__(self) -> None:
        self._waiting: list[Entry] = []
        self._known: dict[str, Entry] = {}
        self._numbers, self._lock = count(), threading.Lock()
        self._out = 0  # entries that are not in line

    def add(self, request: Request) -> Entry:
        """A new entry, which is not to be drawn before it is ``put``.

        Raises:
            ValueError: its id is in use.
        """
        entry = Entry(request.id, pickle.dumps(request), (-request.priority, next(self._numbers)))
        with self._lock:
            if request.id in self._known:
                raise ValueError(f"there is a request {request.id!r} already; give each an id of its own.")
            self._known[request.id] = entry
        return entry

    @property
    def length(self) -> int:
        """How many are in line, or about to be."""
        with self._lock:
            return len(self._known) - self._out

    @property
    def known(self) -> list[Entry]:
        return list(self._known.values())

    def find(self, id: str) -> Entry | None:
        return self._known.get(id)

    def put(self, entry: Entry) -> None:
        """Let an entry be drawn, from its place on."""
        entry.is_entered = True
        self._note(entry, is_in_line=True)
        insort(self._waiting, entry, key=lambda one: one.place)

    def next(self) -> Entry | None:
        """Take the first one out of line."""
        if not self._waiting:
            return None
        self._note(self._waiting[0], is_in_line=False)
        return self._waiting.pop(0)

    def take_out(self, entry: Entry) -> None:
        """Take an entry out of line, if it is in it."""
        self._waiting = [one for one in self._waiting if one is not entry]
        self._note(entry, is_in_line=False)

    def forget(self, entry: Entry) -> None:
        self.take_out(entry)
        with self._lock:
            del self._known[entry.id]
            self._out -= 1

    def _note(self, entry: Entry, is_in_line: bool) -> None:
        with self._lock:
            self._out += entry.is_in_line - is_in_line
            entry.is_in_line = is_in_line
