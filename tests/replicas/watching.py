"""Requests of the demo model, and somebody who hears what becomes of them."""

import io
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ditmesh.cli.generate.job import describe_job
from ditmesh.cli.generate.options import Options
from ditmesh.job.description import Job
from ditmesh.replicas.requests import Cancelled, Event, Failed, Finished, Request
from ditmesh.runtime.world import ALONE

DEMO = Path(__file__).parents[2] / "src/ditmesh/demo_model"
LAST = (Finished, Failed, Cancelled)
PATIENCE = 100  # seconds until an event that does not come is a failure


def demo(layout: str | None = None, **options: Any) -> Job:
    return describe_job(Options(example="demo", parallel=layout, **options), ALONE)


def request(id: str, seed: int = 0, steps: int = 4, **facts: Any) -> Request:
    call = {**demo(steps=steps, height=64, width=64, prompt="a red circle").call, **facts.pop("call", {})}
    return Request(id, call, (seed,), ({"seed": seed},), **facts)


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), dtype=int)


class Watcher:
    """Keeps all events, in order, and waits for some."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._came = threading.Condition()

    def __call__(self, event: Event) -> None:
        with self._came:
            self.events.append(event)
            self._came.notify_all()

    def of(self, id: str, *kinds: Any) -> list[Any]:
        return [x for x in self.events if vars(x).get("id") == id and (not kinds or isinstance(x, kinds))]

    def wait(self, is_there: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + PATIENCE
        with self._came:
            while not (found := is_there()):
                assert time.monotonic() < deadline, self.events[-20:]
                self._came.wait(0.05)  # some things are no events
        return found

    def event(self, id: str, *kinds: Any) -> Any:
        """The first event of a request that is of these kinds."""
        return self.wait(lambda: self.of(id, *kinds))[0]

    def picture(self, id: str) -> bytes:
        """What a request drew."""
        end = self.event(id, *LAST)
        assert isinstance(end, Finished), end
        return end.results[0].content
