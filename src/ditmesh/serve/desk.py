"""The desk: takes orders, hands their pictures to the replicas, follows them, and has it written down how they end."""

import asyncio
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, ParamSpec, TypeVar

from ditmesh.replicas.requests import Cancelled, Event, Failed, Finished, Paused, Preview, ReplicaChanged
from ditmesh.replicas.supervisor import Supervisor
from ditmesh.runtime.terminal import shown
from ditmesh.serve.errors import Refusal
from ditmesh.serve.live import Glimpse, Live, Part, job_of
from ditmesh.serve.metrics import Meter
from ditmesh.serve.orders import Order
from ditmesh.serve.pace import Pace
from ditmesh.serve.settings import Settings
from ditmesh.serve.store import Job, Store

P = ParamSpec("P")
T = TypeVar("T")
ALIVE = ("idle", "drawing")
SHOWN = 80  # letters of a prompt in the log
STATUS = {"failed": 422, "cancelled": 410}  # none of them would be asked for again by itself


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
        self._endings: set[asyncio.Task[None]] = set()

    def begin(self, supervisor: Supervisor) -> None:
        self.supervisor, self._loop = supervisor, asyncio.get_running_loop()
        self._follow()
        watch, replicas = self.meter.watch, supervisor.replicas
        watch("requests_queued", "Pictures that wait.", lambda: sum(len(live.waiting) for live in self._all))
        watch("requests_running", "Pictures being drawn.", lambda: sum(len(live.drawing) for live in self._all))
        watch("replicas", "Replicas there are to be.", lambda: len(replicas()))
        watch("replicas_alive", "Replicas that draw or could.", lambda: self.alive)
        watch("replica_restarts", "Replicas lost so far.", lambda: sum(replica.restarts for replica in replicas()))

    @property
    def alive(self) -> int:
        """Replicas that have the model."""
        return sum(replica.state in ALIVE for replica in self.supervisor.replicas())

    @property
    def _all(self) -> list[Live]:
        return list(self.lives.values())

    async def write(self, deed: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Do something with the store, after all that was to be done before."""
        return await asyncio.get_running_loop().run_in_executor(self._pen, partial(deed, *arguments, **named))

    async def take(self, order: Order, origin: str, again: Job | None = None) -> Live:
        """Take an order.

        Args:
            origin: client (who waits for it), page, video or batch (which minds the queue, and its results, itself).
            again: its job, if a server before this one took it.

        Raises:
            Refusal: the queue is full, or nothing can be drawn any more.
        """
        counts = origin != "batch" and again is None
        self._check_room(len(order.parts), counts)
        live = Live(again or job_of(order, origin), order, counts)
        self.lives[order.id] = live
        self._of_part |= dict.fromkeys(live.parts, live)
        if origin != "batch":
            await self.write(self._enter, live)
        for part in [] if live.is_over else live.parts.values():  # it may be cancelled meanwhile
            self.supervisor.submit(part.request)
        self._changed(live)
        return live

    def _check_room(self, pictures: int, bounded: bool) -> None:
        if self.is_stopping:
            raise Refusal(
                503, "The server stops; ask again in a moment.", code="stopping", headers={"retry-after": "9"}
            )
        if self.supervisor.broken:
            raise Refusal(503, f"Nothing can be drawn: {self.supervisor.broken}", code="no_replica")
        counted = [live for live in self._all if live.counts]
        missing = sum(len(live.waiting) for live in counted) + pictures - self.settings.most_queued
        if bounded and missing > 0:
            seconds = self.pace.seconds(counted, missing, self.alive)
            message = f"{self.settings.most_queued} pictures may wait, and there is no room; ask again in {seconds} s."
            raise Refusal(429, message, code="queue_full", headers={"retry-after": str(seconds)})

    def cancel(self, id: str, why: str = "it was cancelled") -> None:
        """Let an order be; its ranks are free at the next step."""
        if live := self.lives.get(id):
            self._end(live, "cancelled", why)

    def pause(self, id: str) -> None:
        for part in self.lives[id].parts:
            self.supervisor.pause(part)

    def resume(self, id: str) -> None:
        for part in self.lives[id].parts:
            self.supervisor.resume(part)

    async def stop(self) -> None:
        """Take nothing more; what is being drawn may end, and what waits begins again with the next server."""
        self.is_stopping = True
        for live in self._all:
            if not live.drawing:
                self._leave(live)
        if ends := [live.ended for live in self._all]:
            await asyncio.wait(ends, timeout=self.settings.patience)
        for live in self._all:
            self._leave(live)
        await asyncio.gather(*self._endings)
        self._changed(None)

    def _leave(self, live: Live) -> None:
        """Let an order go without an end: it is written down as it was."""
        if live.is_over:
            return
        live.is_over = True
        del self.lives[live.order.id]
        for part in live.parts:
            self._of_part.pop(part, None)
            self.supervisor.cancel(part)
        live.end(Refusal(503, "The server stops.", code="stopping", headers={"retry-after": "9"}))

    def notice(self, event: Event) -> None:
        """Hear of an event, on the supervisor's thread."""
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
                self._hear(live, live.parts[event.id], event)
                self._changed(live)

    def _hear(self, live: Live, part: Part, event: Event) -> None:
        match event:
            case Failed(why=why, by_request=by_request):
                self._end(live, "failed", why, by_request)
            case Cancelled():
                self._end(live, "cancelled", "it was cancelled")
            case Finished(results=results):
                part.follow(event)
                self.pace.learn(part, live.order.work)
                self.meter.drawn(part.seconds)
                live.tell(part)
                if broken := [result.failed for result in results if result.failed]:
                    self._end(live, "failed", broken[0])
                elif all(one.results is not None for one in live.parts.values()):
                    self._end(live, "completed")
            case _:
                part.follow(event)
                status = "paused" if isinstance(event, Paused) else "in_progress" if live.drawing else "queued"
                live.job = live.job.with_facts(status)
                if isinstance(event, Preview):
                    live.tell(Glimpse(part.number, event.index, event.content))

    def _end(self, live: Live, status: str, why: str = "", by_request: bool = True) -> None:
        """An order is at its end: free what still draws for it, and have it written down."""
        if live.is_over:
            return
        live.is_over = True
        for name, part in live.parts.items():
            del self._of_part[name]
            if part.results is None:
                self.supervisor.cancel(name)
        spent = time.monotonic() - live.taken
        self.meter.ended(live.order.kind, status, spent)
        told = shown(live.order.asked.prompt[:SHOWN]) + (f" ({shown(why)})" if why else "")
        logging.getLogger("ditmesh").info("%s %s after %.2f s: %s", live.order.id, status, spent, told)
        refusal = why and Refusal(STATUS[status] if by_request else 500, f"Nothing was drawn: {why}", code=status)
        live.job = live.job.with_facts(finished=time.time(), seconds=live.seconds, error=why or None)
        if status != "completed":  # which nobody is to see before its pictures are kept
            live.job = live.job.with_facts(status)
        ending = asyncio.get_running_loop().create_task(self._finish(live, status, refusal or None))
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)

    async def _finish(self, live: Live, status: str, refusal: Refusal | None) -> None:
        try:
            if live.job.facts["origin"] != "batch":
                await self.write(self._close, live, status)
        except (OSError, sqlite3.Error) as error:
            logging.getLogger("ditmesh").exception("%s cannot be written down", live.order.id)
            refusal = refusal or Refusal(500, f"It was drawn, and could not be kept: {error}", code="not_kept")
        live.job = live.job.with_facts(status)
        self.lives.pop(live.order.id, None)
        live.end(refusal)
        self._changed(live)

    def _enter(self, live: Live) -> None:
        """Write an order down, and keep the pictures that go in for a restart."""
        body = live.order.body
        if "inputs" not in live.job.facts and (body.images or body.mask):
            uploads = [*body.images, *([body.mask] if body.mask else [])]
            kept = [self.store.keep_file(x.content, x.name[:200], "input", "image", live.job.id).id for x in uploads]
            live.job = live.job.with_facts(inputs=kept, mask=body.mask is not None)
        self.store.keep_job(live.job)

    def _close(self, live: Live, status: str) -> None:
        """Write down how an order ended, and its pictures before that."""
        kept: list[dict[str, Any]] = []
        for part, result in live.results if status == "completed" else ():
            name = f"{live.job.id}-{len(kept)}{part.request.suffix}"
            file = self.store.keep_file(result.content, name, "result", result.media_type, live.job.id)
            size = {"width": result.width, "height": result.height}
            kept.append({"file": file.id, "media_type": result.media_type, **size, "seed": part.request.seeds[0]})
        live.job = live.job.with_facts(status, **({"results": kept} if kept else {}))
        self.store.keep_job(live.job)

    def _changed(self, live: Live | None) -> None:
        for watcher in self.watchers:
            watcher(live)
