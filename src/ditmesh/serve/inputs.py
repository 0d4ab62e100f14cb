"""The pictures that go in: uploaded, inside the request, or fetched where the server allows it."""

import asyncio
import binascii
from base64 import b64decode
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING

from ditmesh.job.images import WEB, open_image
from ditmesh.serve.asked import Body, Upload
from ditmesh.serve.errors import Refusal
from ditmesh.serve.fetching import fetch
from ditmesh.serve.settings import Settings

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
INLINE = "data:"


async def brought(body: Body, settings: Settings) -> Body:
    """The body with the content of all its pictures.

    Raises:
        Refusal: a picture is elsewhere, and may not or cannot be fetched.
    """
    images = [await _content(image, settings) for image in body.images]
    return replace(body, images=tuple(images), mask=body.mask and await _content(body.mask, settings))


async def _content(image: Upload, settings: Settings) -> Upload:
    if not image.url:
        return image
    try:
        if image.url.startswith(INLINE):
            content = b64decode(image.url.partition(",")[2], validate=True)
        elif not image.url.startswith(WEB):
            raise ValueError("it is neither a file of the form nor a URL")
        elif not settings.url_inputs:
            raise ValueError("this server fetches no URLs; upload the picture, or start it with --allow-url-inputs")
        else:
            content = await asyncio.to_thread(fetch, image.url, settings.most_bytes)
    except (binascii.Error, ValueError) as error:
        raise Refusal(400, f"{image.name}: {error}.", "image", "invalid_image") from error
    return Upload(image.name, content)


def opened(upload: Upload, mode: str, settings: Settings, param: str = "image") -> "Image.Image":
    """A picture that came with a request.

    Raises:
        Refusal: it is none, or too large.
    """
    name = upload.name.replace("\\", "/").rpartition("/")[2] or param
    try:
        return open_image(name, BytesIO(upload.content), mode, FORMATS, settings.most_pixels)
    except ValueError as error:
        raise Refusal(400, f"{param}: {error}", param, "invalid_image") from error
