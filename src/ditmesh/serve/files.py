"""Files: those that clients bring for batches, and all that was made for them."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response
from starlette.datastructures import UploadFile

from ditmesh.serve.errors import Refusal, not_found
from ditmesh.serve.server import Server
from ditmesh.serve.store import File

PURPOSES = ("batch",)


def routes(server: Server) -> APIRouter:
    router = APIRouter(prefix="/v1/files", tags=["files"])
    store, write = server.store, server.desk.write

    async def found(id: str) -> File:
        file = await write(store.file, id)
        if file is None:
            raise not_found("file", id[:80])
        return file

    @router.post("")
    async def bring(request: Request) -> dict[str, Any]:
        """Bring a file of requests: a form with `file` and `purpose`, which is batch."""
        async with request.form(max_files=1, max_fields=10) as form:
            file, purpose = form.get("file"), form.get("purpose")
            if not isinstance(file, UploadFile):
                raise Refusal(400, "file: send a form with a file.", "file", "missing")
            if purpose not in PURPOSES:
                raise Refusal(400, f"purpose: {purpose!r} is none; send batch.", "purpose", "invalid_value")
            content, name = await file.read(), (file.filename or "file")[:200]
        return told(await write(store.keep_file, content, name, "batch", "application/jsonl"))

    @router.get("")
    async def all_of_them() -> dict[str, Any]:
        """The files that clients brought, and what became of their batches."""
        return {"object": "list", "data": [told(file) for file in await write(store.shared_files)], "has_more": False}

    @router.get("/{id}")
    async def one(id: str) -> dict[str, Any]:
        return told(await found(id))

    @router.delete("/{id}")
    async def drop(id: str) -> dict[str, Any]:
        if not (await found(id)).purpose.startswith(PURPOSES):
            raise Refusal(409, "The file goes with a job; delete that, and it goes as well.", code="owned_by_job")
        await write(store.drop_file, id)
        return {"id": id, "object": "file", "deleted": True}

    @router.get("/{id}/content")
    async def content(id: str) -> Response:
        """What is in it; a link that this server gave out needs no key."""
        file = await found(id)
        lasting = {"cache-control": "private, max-age=86400, immutable"}
        return FileResponse(store.path(file.id), media_type=file.media_type, headers=lasting)

    return router


def told(file: File) -> dict[str, Any]:
    """A file in the words of clients."""
    facts = {"id": file.id, "object": "file", "bytes": file.bytes, "created_at": int(file.created)}
    return {**facts, "filename": file.name, "purpose": file.purpose, "status": "processed"}
