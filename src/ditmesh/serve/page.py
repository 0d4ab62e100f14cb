"""The page at /, as files of this package; nothing in it comes from elsewhere."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import Response

from ditmesh.serve.errors import Refusal
from ditmesh.serve.server import Server

HERE = Path(__file__).parent / "web"
KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def routes(server: Server) -> APIRouter:
    router = APIRouter(include_in_schema=False)
    files = {file.name: (file.read_bytes(), KINDS[file.suffix]) for file in HERE.iterdir() if file.suffix in KINDS}
    shell = (HERE / "index.html").read_bytes()

    @router.get("/")
    async def start() -> Response:
        return Response(shell, media_type="text/html; charset=utf-8")

    @router.get("/page/{name}")
    async def part(name: str) -> Response:
        if name not in files:
            raise Refusal(404, "The page has no such part.", code="not_found")
        content, kind = files[name]
        return Response(content, media_type=f"{kind}; charset=utf-8", headers={"cache-control": "no-cache"})

    return router
