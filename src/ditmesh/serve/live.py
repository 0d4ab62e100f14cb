"""An order under way: how far each of its pictures is, and who waits for it."""

import asyncio
import time
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ditmesh.replicas.requests import (
    Event,
    Finished,
    Paused,
    Preview,
    Request,
    Result,
    Resumed,
    Retried,
    Started,
    Stepped,
)
from ditmesh.serve.errors import Refusal
from ditmesh.serve.orders import Order
from ditmesh.serve.store import Job

KINDS = {".png": "png", ".webp": "webp", ".jpg": "jpeg", ".mp4": "jpeg"}  # the kind of file they are


@dataclass
class Part:
    """One of its pictures."""

    request: Request
    number: int
    started: float | None = None
    replica: int | None = None
    step: int = 0
    steps: int = 0
    preview: bytes = b""
    results: tuple[Result, ...] | None = None
    seconds: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def done(self) -> float:
        """How much of it, from 0 to 1."""
        return 1.0 if self.results is not None else min(1.0, self.step / self.steps) if self.steps else 0.0

    @property
    def view(self) -> dict[str, Any]:
        """How far it is, as the page shows it."""
        kind = KINDS[self.request.suffix]
        preview = f"data:image/{kind};base64,{b64encode(self.preview).decode()}" if self.preview else None
        return {"replica": self.replica, "step": self.step, "steps": self.steps, "preview": preview}

    def follow(self, event: Event) -> None:
        match event:
            case Started(replica=replica):
                self.started, self.replica, self.step = time.monotonic(), replica, 0
            case Stepped(step=step, steps=steps):
                self.step, self.steps = step, steps
            case Preview(content=content):
                self.preview = content
            case Retried() | Paused() | Resumed():
                self.started = self.replica = None
            case Finished(results=results, seconds=seconds):
                self.results, self.seconds, self.preview = results, seconds, b""
            case _:
                pass


@dataclass(frozen=True)
class Glimpse:
    """A picture on the way, for whoever follows a stream."""

    number: int
    index: int
    content: bytes


class Live:
    """An order from when it is taken to its end.

    Attributes:
        job: as it is written down.
        counts: whether it is held to the bound of the queue.
        is_over: nothing more is drawn; what was is being written down.
        ended: done when the last picture is there and written down; raises what to answer otherwise.
    """

    def __init__(self, job: Job, order: Order, counts: bool):
        self.job, self.order, self.counts, self.is_over = job, order, counts, False
        self.parts = {part.id: Part(part, number) for number, part in enumerate(order.parts)}
        self.taken = time.monotonic()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended.add_done_callback(lambda future: future.cancelled() or future.exception())  # nobody has to ask
        self.glimpses: set[asyncio.Queue[Glimpse | Part | None]] = set()

    @property
    def waiting(self) -> list[Part]:
        return [part for part in self._left if part.started is None]

    @property
    def drawing(self) -> list[Part]:
        return [part for part in self._left if part.started is not None]

    @property
    def _left(self) -> list[Part]:
        return [] if self.is_over else [part for part in self.parts.values() if part.results is None]

    @property
    def results(self) -> Iterable[tuple[Part, Result]]:
        return [(part, result) for part in self.parts.values() for result in part.results or ()]

    @property
    def seconds(self) -> dict[str, float]:
        """By stage, over all its pictures."""
        spent: dict[str, float] = {}
        for part in self.parts.values():
            for stage, seconds in part.seconds.items():
                spent[stage] = round(spent.get(stage, 0) + seconds, 4)
        return spent

    @property
    def progress(self) -> int:
        """Per cent."""
        return int(100 * sum(part.done for part in self.parts.values()) / len(self.parts))

    def tell(self, glimpse: Glimpse | Part | None) -> None:
        for queue in self.glimpses:
            queue.put_nowait(glimpse)

    def end(self, refusal: Refusal | None = None) -> None:
        """Let everybody who waits go on."""
        if not self.ended.done():
            if refusal is None:
                self.ended.set_result(None)
            else:
                self.ended.set_exception(refusal)
        self.tell(None)


def job_of(order: Order, origin: str) -> Job:
    """An order as it is written down."""
    asked = order.asked.model_dump(mode="json", exclude_defaults=True)
    facts = {"asked": asked, "origin": origin, "steps": order.steps, "size": order.size, "length": order.length}
    return Job(order.id, order.kind, "queued", time.time(), facts)
