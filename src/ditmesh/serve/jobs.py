"""Jobs of the page: asked for without waiting, cancelled, paused, drawn again, forgotten."""

from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Query, Request

from ditmesh.serve.asked import read_json, taken_apart
from ditmesh.serve.errors import Refusal
from ditmesh.serve.server import SCHEMA, Server

KINDS = ("image", "edit", "video")


def routes(server: Server) -> APIRouter:
    router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
    desk = server.desk

    @router.post("", status_code=202, openapi_extra=SCHEMA)
    async def create(request: Request) -> dict[str, Any]:
        """Ask for pictures or a video, and do not wait: the fields of the other paths, as JSON or a form."""
        return server.view((await desk.take(await server.order(request), "page")).job)

    @router.get("")
    async def all_of_them(
        after: str | None = Query(None, max_length=80), limit: int = Query(24, ge=1, le=100)
    ) -> dict[str, Any]:
        """All jobs, the newest first, whoever asked for them."""
        found = await desk.write(server.store.jobs, KINDS, limit + 1, after)
        data = [server.view(await server.job(job.id)) for job in found[:limit]]
        return {"object": "list", "data": data, "has_more": len(found) > limit}

    @router.get("/{id}")
    async def one(id: str) -> dict[str, Any]:
        return server.view(await server.job(id, *KINDS))

    @router.delete("/{id}")
    async def drop(id: str) -> dict[str, Any]:
        """Forget a job and its pictures; one under way is cancelled first."""
        await server.drop(await server.job(id, *KINDS))
        return {"id": id, "object": "job", "deleted": True}

    @router.post("/{id}/again", status_code=202)
    async def again(id: str, request: Request) -> dict[str, Any]:
        """Ask for the same once more, but for the fields that are given; a `seed` of null is another one."""
        job = await server.job(id, *KINDS)
        body, changed = await desk.write(server.body_of, job), await read_json(request)
        body = replace(body, asked=taken_apart({**job.facts["asked"], **changed}).asked)
        return server.view((await desk.take(await server.checked(job.kind, body), "page")).job)

    @router.post("/{id}/{deed}")
    async def change(id: str, deed: str) -> dict[str, Any]:
        """Cancel, pause or resume; it takes effect between two steps."""
        deeds = {"cancel": desk.cancel, "pause": desk.pause, "resume": desk.resume}
        job = await server.job(id, *KINDS)
        if deed not in deeds:
            raise Refusal(404, f"A job can be {', '.join(deeds)}, not {deed[:80]!r}.", code="not_found")
        if id not in desk.lives:
            raise Refusal(409, f"The job is {job.status} already.", code="already_ended")
        deeds[deed](id)
        return server.view(await server.job(id, *KINDS))

    return router
