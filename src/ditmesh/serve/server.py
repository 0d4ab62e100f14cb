"""What every path of the server stands on: the job, the desk, the store, and how an order comes in."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from ditmesh.job.description import Job as Model
from ditmesh.job.numbers import LARGEST
from ditmesh.serve.asked import Asked, Body, Upload, read_body
from ditmesh.serve.desk import Desk
from ditmesh.serve.errors import Refusal, not_found
from ditmesh.serve.gate import signed
from ditmesh.serve.inputs import brought
from ditmesh.serve.metrics import Meter
from ditmesh.serve.orders import Order, Orders
from ditmesh.serve.settings import Settings
from ditmesh.serve.store import Job, Store, new_id

IDS = {"image": "image_", "edit": "edit_", "video": "video_", "batch": "batch_"}
LINK_SECONDS = 86400
SCHEMA: dict[str, Any] = {
    "requestBody": {"content": {"application/json": {"schema": Asked.model_json_schema()}}, "required": True}
}


def readable(seed: int) -> int | str:
    """A seed as a browser can hold it, whose numbers end before those of seeds do."""
    return seed if seed <= LARGEST else str(seed)


@dataclass(frozen=True)
class Server:
    """Everything that lives as long as the server does."""

    model: Model
    settings: Settings
    orders: Orders
    store: Store
    desk: Desk
    meter: Meter
    secret: bytes
    created: float

    async def order(self, request: Request, kind: str | None = None) -> Order:
        """What a request asks for; of an open kind if the model makes but one, or by whether a picture goes in.

        Raises:
            Refusal: it cannot be drawn.
        """
        body = await brought(await read_body(request, self.settings.most_bytes), self.settings)
        return await self.checked(kind or self.kind_of(body), body)

    async def checked(self, kind: str, body: Body, priority: int = 0) -> Order:
        make = self.orders.make
        if body.images:  # decoding takes a while
            return await asyncio.to_thread(make, new_id(IDS[kind]), kind, body, priority)
        return make(new_id(IDS[kind]), kind, body, priority)

    def kind_of(self, body: Body) -> str:
        kinds = self.orders.kinds
        return kinds[0] if len(kinds) == 1 else "edit" if body.images else "image"

    async def begin_again(self) -> None:
        """Take what a server before this one left unfinished; nobody waits any more for a plain request."""
        for job in self.store.unfinished():
            if job.kind == "batch":
                continue
            if job.facts["origin"] == "client":
                await self._give_up(job, "cancelled", "the server was stopped, and its client with it")
                continue
            try:
                body = await self.desk.write(self.body_of, job)
                order = await asyncio.to_thread(self.orders.make, job.id, job.kind, body)
            except (Refusal, OSError, ValueError) as error:  # another model is served now, or a file is gone
                await self._give_up(job, "failed", str(error))
            else:
                await self.desk.take(order, job.facts["origin"], again=job)

    async def _give_up(self, job: Job, status: str, why: str) -> None:
        await self.desk.write(self.store.keep_job, job.with_facts(status, error=why, finished=time.time()))

    def body_of(self, job: Job) -> Body:
        """What was asked for, with the pictures that went in."""
        files = [self.store.file(id) for id in job.facts.get("inputs", ())]
        uploads = [Upload(file.name, self.store.path(file.id).read_bytes()) for file in files if file]
        mask = uploads.pop() if job.facts.get("mask") else None
        return Body(Asked.model_validate(job.facts["asked"]), tuple(uploads), mask)

    async def job(self, id: str, *kinds: str) -> Job:
        """A job as it now is.

        Raises:
            Refusal: there is none of that name and kind.
        """
        live = self.desk.lives.get(id)
        found = live.job if live else await self.desk.write(self.store.job, id)
        if found is None or (kinds and found.kind not in kinds) or found.facts.get("origin") == "batch":
            raise not_found(kinds[0] if len(kinds) == 1 else "job", id[:80])
        return found

    async def drop(self, job: Job) -> None:
        """Forget a job and all its files."""
        if live := self.desk.lives.get(job.id):
            self.desk.cancel(job.id)
            await asyncio.wait([live.ended])
        await self.desk.write(self.store.drop_job, job.id)

    def link(self, file: str) -> str:
        """Where a file can be had without a key, for a while."""
        return signed(self.secret, f"/v1/files/{file}/content", int(time.time()) + LINK_SECONDS)

    def view(self, job: Job) -> dict[str, Any]:
        """A job as the page and /v1/jobs show it."""
        live, facts = self.desk.lives.get(job.id), job.facts
        shown = {name: facts.get(name) for name in ("asked", "origin", "steps", "error", "seconds")}
        results = [
            {**result, "url": self.link(result["file"]), "seed": readable(result["seed"])}
            for result in facts.get("results", ())
        ]
        times = {"created_at": job.created, "completed_at": facts.get("finished")}
        return {"id": job.id, "object": "job", "kind": job.kind, "status": job.status, **times, **shown} | {
            "results": results,
            "progress": live.progress if live else 100 if job.status == "completed" else 0,
            "parts": [part.view for part in live.parts.values()] if live and not live.is_over else [],
        }
