"""The desk: takes orders, hands their pictures to the replicas, follows them, and writes down what became of them."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from ditmesh.replicas.requests import Cancelled, Event, Failed, Finished, Paused, Preview, ReplicaChanged, Resumed
from ditmesh.replicas.supervisor import Supervisor
from ditmesh.runtime.terminal import shown
from ditmesh.serve.errors import Refusal
from ditmesh.serve.live import Glimpse, Live, Part, job_of
from ditmesh.serve.metrics import Meter
from ditmesh.serve.orders import Order
from ditmesh.serve.pace import Pace
from ditmesh.serve.settings import Settings
from ditmesh.serve.store import Job, Store

T = TypeVar("T")
ALIVE = ("idle", "drawing")
SHOWN = 80  # letters of a prompt in the log
CLIENT_LEFT, STOPPED = "the client left", "The server stops; ask again in a moment."


class Desk:
    """All its methods run on the server's loop, but for ``notice``."""

    def __init__(self, settings: Settings, store: Store, meter: Meter):
        self.settings, self.store, self.meter, self.pace = settings, store, meter, Pace()
        self.lives: dict[str, Live] = {}
        self.watchers: set[Callable[[Live | None], None]] = set()
        self.is_stopping = False
        self._of_part: dict[str, Live] = {}
        self._events: deque[Event] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pen = ThreadPoolExecutor(1, "ditmesh-pen")  # one, so that what is written first lies first

    def begin(self, supervisor: Supervisor) -> None:
        self.supervisor, self._loop = supervisor, asyncio.get_running_loop()
        self._follow()
        watch = self.meter.watch
        watch("requests_queued", "Pictures that wait.", lambda: sum(len(live.waiting) for live in self._all))
        watch("requests_running", "Pictures being drawn.", lambda: sum(len(live.drawing) for live in self._all))
        watch("replicas_alive", "Replicas that draw or could.", lambda: self.alive)
        watch("replicas", "Replicas there are to be.", lambda: len(supervisor.replicas()))
        watch("replica_restarts", "Lost replicas.", lambda: sum(one.restarts for one in supervisor.replicas()))

    @property
    def alive(self) -> int:
        """Replicas that have the model."""
        return sum(replica.state in ALIVE for replica in self.supervisor.replicas())

    @property
    def _all(self) -> list[Live]:
        return list(self.lives.values())

    async def write(self, deed: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """Do something with the store, after all that was to be done before."""
        return await asyncio.get_running_loop().run_in_executor(self._pen, partial(deed, *arguments, **named))

    async def take(self, order: Order, origin: str, again: Job | None = None, counts: bool = True) -> Live:
        """Take an order.

        Args:
            origin: client (who waits for it), page, video or batch.
            again: its job, if a server before this one took it.
            counts: whether it is held to the bound of the queue.

        Raises:
            Refusal: the queue is full, or the server stops.
        """
        self._check_room(len(order.parts), counts and again is None)
        live = Live(again or job_of(order, origin, time.time()), order, counts)
        self.lives[order.id] = live
        self._of_part |= dict.fromkeys(live.parts, live)
        if origin != "batch":
            if again is None:
                await self._keep_inputs(live)
            await self.write(self.store.keep_job, live.job)
        for part in live.parts.values() if order.id in self.lives else ():  # it may have been cancelled meanwhile
            self.supervisor.submit(part.request)
        self._changed(live)
        return live

    def _check_room(self, pictures: int, bounded: bool) -> None:
        if self.is_stopping:
            raise Refusal(503, STOPPED, code="stopping", headers={"retry-after": "10"})
        if self.supervisor.broken:
            raise Refusal(503, f"No replica can draw: {self.supervisor.broken}", code="no_replica")
        counted = [live for live in self.lives.values() if live.counts]
        missing = sum(len(live.waiting) for live in counted) + pictures - self.settings.most_queued
        if bounded and missing > 0:
            seconds = self.pace.seconds(counted, missing, self.alive)
            message = f"{self.settings.most_queued} pictures wait already; ask again in {seconds} s."
            raise Refusal(429, message, code="queue_full", headers={"retry-after": str(seconds)})

    async def _keep_inputs(self, live: Live) -> None:
        """Keep the pictures that go in, for a restart."""
        body, kept = live.order.body, list[str]()
        for upload in (*body.images, *([body.mask] if body.mask else [])):
            name, owner = upload.name[:200], live.job.id
            kept.append((await self.write(self.store.keep_file, upload.content, name, "input", "image", owner)).id)
        if kept:
            live.job = live.job.with_facts(inputs=kept, mask=body.mask is not None)

    def cancel(self, id: str, why: str = "cancelled") -> None:
        """Let an order be; its ranks are free at the next step."""
        if live := self.lives.get(id):
            for part in live.parts:
                self.supervisor.cancel(part)
            self._end(live, "cancelled", why)

    def pause(self, id: str) -> None:
        for part in self.lives[id].parts:
            self.supervisor.pause(part)

    def resume(self, id: str) -> None:
        for part in self.lives[id].parts:
            self.supervisor.resume(part)

    def notice(self, event: Event) -> None:
        """Hear of an event on the supervisor's thread."""
        self._events.append(event)
        if self._loop is not None and len(self._events) == 1:
            try:
                self._loop.call_soon_threadsafe(self._follow)
            except RuntimeError:  # the loop is closed, and nobody wants to know any more
                self._events.clear()

    def _follow(self) -> None:
        while self._events:
            event = self._events.popleft()
            if isinstance(event, ReplicaChanged):
                self._changed(None)
            elif live := self._of_part.get(event.id):
                self._heard(live, live.parts[event.id], event)

    def _heard(self, live: Live, part: Part, event: Event) -> None:
        match event:
            case Failed(why=why, by_request=by_request):
                self._fail(live, why, by_request)
            case Cancelled():
                self._end(live, "cancelled", "cancelled")
            case Finished(results=results):
                part.follow(event)
                self.pace.learn(part, live.order.work)
                self.meter.drawn(part.seconds)
                if broken := [result.failed for result in results if result.failed]:
                    self._fail(live, broken[0], True)
                else:
                    live.tell(part)
                    if all(one.results is not None for one in live.parts.values()):
                        self._end(live, "completed")
            case _:
                part.follow(event)  # pyright: ignore[reportArgumentType]
                if isinstance(event, Preview):
                    live.tell(Glimpse(part.number, event.index, event.content))
                status = "paused" if isinstance(event, Paused) else "in_progress" if live.drawing else live.job.status
                live.job = live.job.with_facts("queued" if isinstance(event, Resumed) else status)
        self._changed(live)

    def _fail(self, live: Live, why: str, by_request: bool) -> None:
        for part in live.parts:
            self.supervisor.cancel(part)
        self._end(live, "failed", why, by_request)

    def _end(self, live: Live, status: str, why: str = "", by_request: bool = True) -> None:
        """An order is at its end; write it down, and then tell."""
        if self.lives.pop(live.order.id, None) is None:
            return
        for part in live.parts:
            self._of_part.pop(part, None)
        seconds = time.monotonic() - live.taken
        self.meter.ended(live.order.kind, status, seconds)
        asked = shown(live.order.asked.prompt[:SHOWN])
        logging.getLogger("ditmesh").info("%s %s after %.2f s: %s%s", live.order.id, status, seconds, asked, why and f" ({shown(why)})")
        error = {"code": "invalid_request" if by_request else "server_error", "message": why} if why else None
        spent = {name: sum(part.seconds.get(name, 0) for part in live.parts.values()) for part in live.parts.values() for name in part.seconds}
        live.job = live.job.with_facts(status, finished=time.time(), error=error, seconds=spent)
        asyncio.get_running_loop().create_task(self._finish(live, why, by_request))

    async def _finish(self, live: Live, why: str, by_request: bool) -> None:
        ...
