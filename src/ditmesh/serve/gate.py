"""Who may come in, and with how much: the key, the host, the origin, the size of a body."""

import asyncio
import hmac
import time
from contextlib import suppress
from hashlib import sha256
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ditmesh.serve.errors import Refusal, too_large
from ditmesh.serve.settings import MIB, Settings, is_loopback

OPEN = {"/", "/health", "/ready"}  # and what the page is made of, which says nothing of anybody's work
PAGE = "/page/"
UPLOADS, BATCH_FILE = "/v1/files", 200 * MIB  # as large as a client's own service takes them
DISCARDED, SECONDS = 64 * MIB, 5  # of a body that is refused: a client that still sends would not read why
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


class Gate:
    """Around the application: nothing of it runs for whoever may not ask."""

    def __init__(self, app: ASGIApp, settings: Settings, secret: bytes):
        self.app, self.settings, self.secret = app, settings, secret

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, most = Headers(scope=scope), self.most_bytes(scope)
        length = headers.get("content-length", "")

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    answer.setdefault(name, value)
                answer.setdefault("cache-control", "no-store")
            await send(message)

        try:
            self.check_place(headers)
            self.check_key(scope, headers)
            if length.isdigit() and int(length) > most:
                raise too_large(most)
        except Refusal as refusal:
            await discard(receive)
            await refusal.response(scope, receive, guarded)
        else:
            await self.app(scope, counted(receive, most), guarded)

    def most_bytes(self, scope: Scope) -> int:
        is_file = scope["path"].rstrip("/") == UPLOADS
        return max(BATCH_FILE, self.settings.most_bytes) if is_file else self.settings.most_bytes

    def check_place(self, headers: Headers) -> None:
        """Refuse what a page of somebody else makes a browser on this machine send."""
        host = urlsplit(f"//{headers.get('host', '')}")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host.netloc:
            raise Refusal(403, "A page of another origin may not use this server.", code="foreign_origin")
        name = host.hostname or ""
        if self.settings.api_key is None and not self.settings.insecure and not is_loopback(name):
            raise Refusal(403, f"Without a key this server answers to localhost alone, not to {name!r}.", code="host")

    def check_key(self, scope: Scope, headers: Headers) -> None:
        """Refuse whoever does not know the key; comparing it takes as long whatever was given."""
        path, key = scope["path"], self.settings.api_key
        if key is None or path in OPEN or path.startswith(PAGE) or self.is_signed(scope):
            return
        given = headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(sha256(given.encode()).digest(), sha256(key.encode()).digest()):
            challenge = {"www-authenticate": "Bearer"}
            message = "The API key is missing or wrong; send it as `Authorization: Bearer KEY`."
            raise Refusal(401, message, code="invalid_api_key", headers=challenge)

    def is_signed(self, scope: Scope) -> bool:
        """Whether it is a link to a file that this server gave out itself, and not too long ago."""
        query = parse_qs(scope["query_string"].decode("ascii", "replace"))
        until, signature = query.get("until", [""])[0], query.get("signature", [""])[0]
        if scope["method"] != "GET" or not until.isdigit() or len(until) > 12 or int(until) < time.time():
            return False
        return hmac.compare_digest(sign(self.secret, scope["path"], int(until)).encode(), signature.encode())


def sign(secret: bytes, path: str, until: int) -> str:
    """What makes a link to a path good without a key, until then."""
    return hmac.new(secret, f"{path} {until}".encode(), sha256).hexdigest()


def signed(secret: bytes, path: str, until: int) -> str:
    """Such a link."""
    return f"{path}?until={until}&signature={sign(secret, path, until)}"


def counted(receive: Receive, most: int) -> Receive:
    """The body as it comes in, until it is too large."""
    count = 0

    async def next_message() -> Message:
        nonlocal count
        message = await receive()
        count += len(message.get("body", b""))
        if count > most:
            raise too_large(most)
        return message

    return next_message


async def discard(receive: Receive) -> None:
    count, more = 0, True
    with suppress(TimeoutError):
        async with asyncio.timeout(SECONDS):
            while more and count < DISCARDED:
                message = await receive()
                count += len(message.get("body", b""))
                more = message.get("more_body", False)
