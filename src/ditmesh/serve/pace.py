"""How long a picture takes here, and so when a queue that is full will have room again."""

import math
import time
from collections.abc import Sequence

from ditmesh.serve.live import Live, Part

NEWEST = 0.3  # how much the newest picture counts against all before
UNKNOWN = 1.0  # seconds for a picture, before the first one is under way


class Pace:
    """Seconds for each unit of work, as measured."""

    def __init__(self) -> None:
        self._measured: float | None = None

    def learn(self, part: Part, work: float) -> None:
        """A picture is done."""
        spent = sum(seconds for stage, seconds in part.seconds.items() if stage != "queued")
        own = spent / work
        self._measured = own if self._measured is None else NEWEST * own + (1 - NEWEST) * self._measured

    def seconds(self, lives: Sequence[Live], missing: int, replicas: int) -> int:
        """Until so many of the pictures that wait will have begun; at least 1.

        What is being drawn has to end first, and then those at the head of the line take turns on the replicas.
        """
        per_work = self._measured if self._measured is not None else _guess(lives)
        drawing = [(1 - part.done) * live.order.work for live in lives for part in live.drawing]
        waiting = [live.order.work for live in lives for _ in live.waiting][: max(0, missing - 1)]
        ahead = sum(drawing) + sum(waiting)
        seconds = ahead * per_work if per_work is not None else UNKNOWN * (len(drawing) + len(waiting))
        return max(1, math.ceil(seconds / max(1, replicas)))


def _guess(lives: Sequence[Live]) -> float | None:
    """From the steps of what is being drawn, before anything is done."""
    now = time.monotonic()
    for live in lives:
        for part in live.drawing:
            if part.step and part.started is not None:
                return (now - part.started) / (part.done * live.order.work)
    return None
