"""Videos: asked for, looked after, fetched; each is a job that a restart finds."""

import asyncio
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import imageio_ffmpeg
import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from PIL import Image

from ditmesh.serve.errors import Refusal
from ditmesh.serve.server import SCHEMA, Server
from ditmesh.serve.store import Job

POLL_MS = "1000"
STATUS = {"paused": "queued", "cancelled": "failed"}  # what clients know no word for
SHEET, SIDE = 4, 256  # a sheet has 4 x 4 frames, and each at most so many pixels a side


def routes(server: Server) -> APIRouter:
    router = APIRouter(prefix="/v1/videos", tags=["videos"])

    @router.post("", openapi_extra=SCHEMA)
    async def create(request: Request) -> Response:
        """Ask for a video: a form with `prompt`, `seconds`, `size`, `input_reference`, and the fields of pictures."""
        order = await server.order(request, "video")
        if order.asked.stream or order.asked.n != 1:
            raise Refusal(400, "A video is drawn alone, and looked after at its own path.", "n", "invalid_value")
        live = await server.desk.take(order, "video")
        return shown(server, live.job)

    @router.get("")
    async def all_of_them(
        after: str | None = Query(None, max_length=80),
        limit: int = Query(20, ge=1, le=100),
        order: Literal["asc", "desc"] = "desc",
    ) -> dict[str, Any]:
        """The videos, the newest first."""
        found = await server.desk.write(server.store.jobs, ["video"], limit + 1, after, order == "desc")
        data = [video(server, await server.job(job.id)) for job in found[:limit]]
        ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
        return {"object": "list", "data": data, "has_more": len(found) > limit, **ends}

    @router.get("/{id}")
    async def one(id: str) -> Response:
        """How far a video is."""
        return shown(server, await server.job(id, "video"))

    @router.delete("/{id}")
    async def drop(id: str) -> dict[str, Any]:
        """Forget a video, or let it be."""
        await server.drop(await server.job(id, "video"))
        return {"id": id, "deleted": True, "object": "video.deleted"}

    @router.get("/{id}/content")
    async def content(id: str, variant: Literal["video", "thumbnail", "spritesheet"] = "video") -> Response:
        """The file, or a picture of it."""
        job = await server.job(id, "video")
        if job.status != "completed":
            raise Refusal(409 if not job.is_done else 404, f"The video is {job.status}.", code="not_ready")
        path = server.store.path(job.facts["results"][0]["file"])
        if variant == "video":
            return FileResponse(path, media_type="video/mp4", filename=f"{id}.mp4")
        frames = 1 if variant == "thumbnail" else SHEET * SHEET
        return Response(await asyncio.to_thread(sheet, path, frames), media_type="image/webp")

    return router


def shown(server: Server, job: Job) -> JSONResponse:
    return JSONResponse(video(server, job), headers={} if job.is_done else {"openai-poll-after-ms": POLL_MS})


def video(server: Server, job: Job) -> dict[str, Any]:
    """A job in the words of clients."""
    asked, facts, live = job.facts["asked"], job.facts, server.desk.lives.get(job.id)
    error = {"code": f"{job.status}", "message": facts["error"]} if facts.get("error") else None
    done = job.status == "completed"
    finished = facts.get("finished")
    return {
        "id": job.id,
        "object": "video",
        "status": STATUS.get(job.status, job.status),
        "progress": live.progress if live else 100 if done else 0,
        "created_at": int(job.created),
        "completed_at": int(finished) if finished and done else None,
        "expires_at": int(finished + 3600 * server.settings.keep_hours) if finished else None,
        "model": server.settings.name,
        "size": facts["size"],
        "seconds": facts["length"],
        "seed": asked["seed"],
        "prompt": asked["prompt"],
        "remixed_from_video_id": None,
        "error": error,
    }


def sheet(path: Path, count: int) -> bytes:
    """So many frames of a video, evenly spread, as one picture."""
    reader = imageio_ffmpeg.read_frames(str(path))
    width, height = next(reader)["size"]
    total: int = imageio_ffmpeg.count_frames_and_secs(str(path))[0] or 1
    wanted = {round(i * (total - 1) / max(1, count - 1)) for i in range(count)}
    frames = [frame for i, frame in enumerate(reader) if i in wanted]
    pictures = [Image.fromarray(np.frombuffer(frame, np.uint8).reshape(height, width, 3)) for frame in frames]
    if count > 1:
        for picture in pictures:
            picture.thumbnail((SIDE, SIDE))
    width, height = pictures[0].size
    columns = min(SHEET, len(pictures))
    made = Image.new("RGB", (columns * width, -(-len(pictures) // columns) * height))
    for i, picture in enumerate(pictures):
        made.paste(picture, (i % columns * width, i // columns * height))
    file = BytesIO()
    made.save(file, "WEBP")
    return file.getvalue()
