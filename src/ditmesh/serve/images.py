"""Pictures for a client that waits: at once, or as a stream with what there is on the way."""

import asyncio
import json
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from ditmesh.replicas.requests import Result
from ditmesh.serve.errors import Refusal
from ditmesh.serve.live import Glimpse, Live, Part
from ditmesh.serve.orders import Order
from ditmesh.serve.server import SCHEMA, Server

GRADES = {"low": "low", "high": "high", "hd": "high"}
FORMATS = {"image/png": "png", "image/webp": "webp", "image/jpeg": "jpeg"}
SILENCE = 15  # seconds until a stream says that it is still there
CLIENT_LEFT = "its client left"


def routes(server: Server) -> APIRouter:
    router = APIRouter(tags=["images"])

    @router.post("/v1/images/generations", openapi_extra=SCHEMA)
    async def generations(request: Request) -> Response:
        """Draw pictures of a prompt."""
        return await draw(server, request, "image")

    @router.post("/v1/images/edits", openapi_extra=SCHEMA)
    async def edits(request: Request) -> Response:
        """Draw pictures from pictures: a form with `image` (or `image[]`), `mask`, and the fields of generations."""
        return await draw(server, request, "edit")

    return router


async def draw(server: Server, request: Request, kind: str) -> Response:
    order = await server.order(request, kind)
    asked = order.asked
    if asked.partial_images and not asked.stream:
        raise Refusal(400, "partial_images: they come in a stream; add stream.", "partial_images", "invalid_value")
    if asked.stream and asked.response_format == "url":
        message = "response_format: a stream holds the pictures themselves."
        raise Refusal(400, message, "response_format", "invalid_value")
    live = await server.desk.take(order, "client")

    def leave() -> None:
        if not live.ended.done():
            server.desk.cancel(order.id, CLIENT_LEFT)

    if asked.stream:
        return Attended(events(live, "image_edit" if kind == "edit" else "image_generation"), leave)
    await until_ended(request, live, leave)
    base = str(request.base_url).rstrip("/")
    return JSONResponse(answer(live, lambda file: base + server.link(file)), headers={"x-request-id": order.id})


async def until_ended(request: Request, live: Live, leave: Callable[[], None]) -> None:
    """Wait for an order, and let it be when its client does not.

    Raises:
        Refusal: nothing was drawn.
    """

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    watch = asyncio.ensure_future(gone())
    try:
        await asyncio.wait({live.ended, watch}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        watch.cancel()
        leave()
    await asyncio.shield(live.ended)


def answer(live: Live, link: Callable[[str], str]) -> dict[str, Any]:
    """The body of an answer; pictures stand in it, or where they can be fetched."""
    asked, kept = live.order.asked, live.job.facts.get("results", ())
    data = [{"b64_json": b64encode(result.content).decode(), **_made(part)} for part, result in live.results]
    if asked.response_format == "url":
        data = [{"url": link(result["file"]), "seed": result["seed"]} for result in kept]
    results = [result for _, result in live.results]
    made = {"created": int(time.time()), "data": data, "usage": usage(live.order, results)}
    return made | _facts(live.order, results[0])


def _made(part: Part) -> dict[str, int]:
    return {"seed": part.request.seeds[0]}


def grade(order: Order) -> str:
    """The quality, in the words that clients know for an answer."""
    return GRADES.get(order.asked.quality, "medium")


def _facts(order: Order, result: Result) -> dict[str, Any]:
    kind, size = FORMATS.get(result.media_type, result.media_type), f"{result.width}x{result.height}"
    return {"background": "opaque", "output_format": kind, "quality": grade(order), "size": size}


def usage(order: Order, results: list[Result]) -> dict[str, Any]:
    """Words for tokens of text, as no tokenizer runs here; of pictures, squares of 16 pixels."""
    words = len(order.asked.prompt.split())
    drawn = sum(-(-result.width // 16) * -(-result.height // 16) for result in results)
    details = {"image_tokens": 0, "text_tokens": words}
    return {
        "input_tokens": words,
        "input_tokens_details": details,
        "output_tokens": drawn,
        "total_tokens": words + drawn,
        "output_tokens_details": {"image_tokens": drawn, "text_tokens": 0},
    }


async def events(live: Live, name: str) -> AsyncIterator[bytes]:
    """Server-sent events of an order: pictures on the way, and those that are done."""
    queue: asyncio.Queue[Glimpse | Part | None] = asyncio.Queue()
    live.glimpses.add(queue)
    try:
        while True:
            try:
                glimpse = await asyncio.wait_for(queue.get(), SILENCE)
            except TimeoutError:
                yield b": still there\n\n"
                continue
            if glimpse is None:
                break
            for event in _told(live, name, glimpse):
                yield event
        await asyncio.shield(live.ended)
        yield b"data: [DONE]\n\n"
    except Refusal as refusal:
        yield sent("error", refusal.body)
    finally:
        live.glimpses.discard(queue)


def _told(live: Live, name: str, glimpse: Glimpse | Part) -> list[bytes]:
    now, order = int(time.time()), live.order
    if isinstance(glimpse, Glimpse):
        facts = {"output_format": order.asked.output_format, "quality": grade(order), "size": order.size}
        picture = {"b64_json": b64encode(glimpse.content).decode(), "background": "opaque", **facts}
        place = {"partial_image_index": glimpse.index, "image_index": glimpse.number, "created_at": now}
        return [sent(f"{name}.partial_image", {"type": f"{name}.partial_image", **picture, **place})]
    told = []
    for result in glimpse.results or ():
        picture = {"b64_json": b64encode(result.content).decode(), **_facts(order, result), **_made(glimpse)}
        place = {"image_index": glimpse.number, "created_at": now, "usage": usage(order, [result])}
        told.append(sent(f"{name}.completed", {"type": f"{name}.completed", **picture, **place}))
    return told


def sent(name: str, data: object) -> bytes:
    """A server-sent event."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


class Attended(StreamingResponse):
    """A stream that says when it is over, however it ends."""

    def __init__(self, content: AsyncIterator[bytes], leave: Callable[[], None]):
        super().__init__(content, media_type="text/event-stream", headers={"x-accel-buffering": "no"})
        self.leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.leave()
