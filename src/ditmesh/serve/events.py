"""What changes, live: how far jobs are, and what the replicas are at."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from ditmesh.serve.images import Attended, sent
from ditmesh.serve.live import Live
from ditmesh.serve.server import Server

BREATH, BEAT = 0.1, 2.0  # seconds between two messages at least, and between two looks at the ranks' memory


def routes(server: Server) -> APIRouter:
    router = APIRouter(tags=["jobs"])

    @router.get("/v1/jobs/events")
    async def events() -> Response:
        """What changes, as server-sent events: `job` and `replicas`."""
        return Attended(changes(server), lambda: None)

    return router


async def changes(server: Server) -> AsyncIterator[bytes]:
    """First what is under way, then whatever changes; of a job that changes often, how it is in the end."""
    desk, changed = server.desk, asyncio.Event()
    waiting: dict[str, Live] = dict(desk.lives)

    def watch(live: Live | None) -> None:
        if live is not None:
            waiting[live.order.id] = live
        changed.set()

    desk.watchers.add(watch)
    try:
        while not desk.is_stopping:
            yield sent("replicas", replicas(server))
            for id in list(waiting):
                live = waiting.pop(id)
                if live.job.facts["origin"] != "batch":
                    yield sent("job", server.view(live.job))
            try:
                await asyncio.wait_for(changed.wait(), BEAT)
            except TimeoutError:
                continue
            changed.clear()
            await asyncio.sleep(BREATH)
    finally:
        desk.watchers.discard(watch)


def replicas(server: Server) -> dict[str, Any]:
    """Every replica with its ranks, and how much there is to do."""
    desk = server.desk
    lives = list(desk.lives.values())
    return {
        "queued": sum(len(live.waiting) for live in lives),
        "running": sum(len(live.drawing) for live in lives),
        "replicas": [
            {
                "number": replica.number,
                "state": replica.state,
                "restarts": replica.restarts,
                "why": replica.why,
                "ranks": [
                    {
                        "rank": rank.rank,
                        "host": rank.host,
                        "device": rank.device,
                        "pid": rank.pid,
                        "memory": rank.memory,
                    }
                    for rank in replica.ranks
                ],
            }
            for replica in desk.supervisor.replicas()
        ],
    }
