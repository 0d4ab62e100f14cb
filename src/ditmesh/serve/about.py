"""What the server is: its model, its health, its numbers."""

from importlib.metadata import version
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

import ditmesh
from ditmesh.serve.errors import not_found
from ditmesh.serve.events import replicas
from ditmesh.serve.metrics import MEDIA_TYPE
from ditmesh.serve.server import Server

PACKAGES = ("torch", "diffusers", "transformers")
DEFAULTS = ("prompt", "negative_prompt", "height", "width", "num_inference_steps", "guidance_scale", "true_cfg_scale")


def routes(server: Server) -> APIRouter:
    router = APIRouter(tags=["server"])
    settings, desk = server.settings, server.desk
    model = {"id": settings.name, "object": "model", "created": int(server.created), "owned_by": "ditmesh"}

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model]}

    @router.get("/v1/models/{id:path}")
    async def one(id: str) -> dict[str, Any]:
        if id not in (settings.name, *settings.aliases):
            raise not_found("model", id[:80])
        return model

    @router.get("/health")
    async def health() -> dict[str, str]:
        """The server answers; whether a replica can draw, /ready says."""
        return {"status": "ok"}

    @router.get("/ready")
    async def ready() -> Response:
        """200 while a replica has the model."""
        is_ready = desk.alive > 0 and not desk.is_stopping
        status = {"status": "ready" if is_ready else "stopping" if desk.is_stopping else "loading"}
        return JSONResponse(status, 200 if is_ready else 503, {} if is_ready else {"retry-after": "1"})

    @router.get("/version")
    async def versions() -> dict[str, str]:
        return {"ditmesh": ditmesh.__version__, **{name: version(name) for name in PACKAGES}}

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(server.meter.text(), media_type=MEDIA_TYPE)

    @router.get("/v1/server")
    async def all_of_it() -> dict[str, Any]:
        """The model and its defaults, the limits, and the replicas with their ranks."""
        return {**facts(server), **replicas(server)}

    return router


def facts(server: Server) -> dict[str, Any]:
    """What is served, what a request may say, and what holds where it says nothing."""
    job, orders, settings = server.model, server.orders, server.settings
    takes = orders.images
    return {
        "model": settings.name,
        "pipeline": job.example.pipeline,
        "transformers": [part.class_name for part in job.facts.transformers.values()],
        "layout": str(job.layout),
        "makes": orders.kinds,
        "defaults": {name: job.call[name] for name in DEFAULTS if name in job.call},
        "takes": sorted({*DEFAULTS, *orders.further} & {*orders.takes}),
        "images": takes and {"needed": takes.needed, "many": takes.many, "mask": takes.mask is not None},
        "video": {"frames": job.example.frames, "fps": job.example.fps} if orders.is_video else None,
        "smallest_side": job.facts.smallest_side,
        "most_pixels": settings.most_pixels,
        "loras": sorted(settings.loras),
    }
