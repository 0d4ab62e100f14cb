"""The images that go into a call: found before anything is loaded, opened before the pipeline is."""

import struct
import threading
import urllib.request
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.error import HTTPError, URLError

from ditmesh.job.example import Example, Images
from ditmesh.runtime.world import ALONE, World

if TYPE_CHECKING:
    from PIL import Image

SECONDS_TO_FETCH, BYTES_TO_FETCH = 30, 64 * 2**20
WEB = ("http://", "https://")


@dataclass(frozen=True)
class Inputs:
    """The images a job was given: files or URLs, and the size they are brought to first."""

    images: tuple[str, ...] = ()
    mask: str | None = None
    height: int | None = None
    width: int | None = None


def find_inputs(
    example: Example, given: Sequence[str], mask: str | None, height: int | None = None, width: int | None = None
) -> Inputs:
    """The images asked for: files or URLs, several by commas, a mask, and the size they are brought to.

    Raises:
        ValueError: they are not there, the pipeline takes none, or it needs some that nobody gave.
    """
    paths = _split(given)
    takes = example.images
    for flag, there, argument in (
        ("--image-path", paths, takes and takes.image),
        ("--mask-image-path", mask, takes and takes.mask),
    ):
        if there and not argument:
            raise ValueError(f"{flag}: {example.name} takes no such image; leave it out.")
        if not there and argument and takes and takes.needed:
            raise ValueError(f"{example.name} needs an image that nobody gave; add {flag} FILE (or an http(s) URL).")
    if len(paths) > 1 and takes and not takes.many:
        raise ValueError(f"--image-path names {len(paths)} images, and {example.name} takes one; leave the others out.")
    for flag, side in (("--input-height", height), ("--input-width", width)):
        if side is not None and not paths:
            raise ValueError(f"{flag} is for images that go in, and there are none; add --image-path.")
    for path in (*paths, *([mask] if mask else [])):
        if not path.startswith(WEB) and not Path(path).expanduser().is_file():
            raise ValueError(f"there is no image {path}; check --image-path and --mask-image-path.")
    return Inputs(tuple(paths), mask, height, width)


def _split(given: Sequence[str]) -> list[str]:
    """Flags that may hold several paths by commas; a file that has a comma in its name, or a URL, is one."""
    paths: list[str] = []
    for text in given:
        whole = Path(text).expanduser().is_file() or text.startswith(WEB)
        paths += [text] if whole else [path.strip() for path in text.split(",") if path.strip()]
    return paths


def open_inputs(inputs: Inputs, takes: Images | None, world: World = ALONE) -> dict[str, Any]:
    """The images as arguments of the call; what is at a URL is fetched once, for every rank of the world.

    Raises:
        ValueError: one cannot be fetched, or is no image.
    """
    if takes is None:
        return {}
    fetched: Mapping[str, bytes] = {}
    if urls := list(dict.fromkeys(path for path in (*inputs.images, inputs.mask or "") if path.startswith(WEB))):
        from ditmesh.runtime.store import from_first  # with it comes torch

        fetched = from_first(urls, fetch, world)
    images = [_resized(_open(path, takes.mode, fetched), inputs) for path in inputs.images]
    arguments: dict[str, Any] = {takes.image: images if takes.many else images[0]} if images else {}
    if takes.mask and inputs.mask:
        arguments[takes.mask] = _resized(_open(inputs.mask, "L", fetched), inputs)
    return arguments


def _resized(image: "Image.Image", inputs: Inputs) -> "Image.Image":
    width, height = image.size
    if inputs.height is None and inputs.width is None:
        return image
    new_width = inputs.width or max(1, round(width * (inputs.height or height) / height))
    new_height = inputs.height or max(1, round(height * new_width / width))
    return image.resize((new_width, new_height))


def _open(path: str, mode: str, fetched: Mapping[str, bytes]) -> "Image.Image":
    return open_image(path, BytesIO(fetched[path]) if path in fetched else Path(path).expanduser(), mode)


def open_image(
    path: str,
    file: BytesIO | Path,
    mode: str,
    formats: tuple[str, ...] | None = None,
    most_pixels: int | None = None,
) -> "Image.Image":
    """An image, turned upright, in the channels that the pipeline expects.

    Args:
        path: how errors call it.
        formats: those that may be read, as Pillow names them; None for all.

    Raises:
        ValueError: it cannot be read, or is too large.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=formats) as image:
                if most_pixels is not None and image.width * image.height > most_pixels:
                    raise ValueError(f"the image {path} has {image.width}x{image.height} pixels; make it smaller.")
                return ImageOps.exif_transpose(image).convert(mode)
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is no image that Pillow can read; use PNG or JPEG.") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"the image {path} is too large: {error}; make it smaller first.") from error
    except (OSError, SyntaxError, EOFError, struct.error) as error:
        raise ValueError(f"the image {path} cannot be read: {error}") from error


def fetch(url: str) -> bytes:
    """What is at a URL, by http or https alone, wherever it leads on to.

    Raises:
        ValueError: it cannot be had, is too large, or takes too long.
    """
    got: list[bytes | str] = []  # or why not
    # In a thread: the timeout of a connection is of each read, and one that drips would never end.
    reader = threading.Thread(target=_read, args=(url, got), daemon=True)
    reader.start()
    reader.join(SECONDS_TO_FETCH)
    answer = got[0] if got else f"it takes longer than {SECONDS_TO_FETCH} s"
    if isinstance(answer, bytes):
        return answer
    raise ValueError(f"the image {url} cannot be fetched: {answer}; download it, and give the file.")


def _read(url: str, got: list[bytes | str]) -> None:
    web, request = urllib.request.build_opener(_NoFtp), urllib.request.Request(url, headers={"User-Agent": "ditmesh"})
    try:
        with web.open(request, timeout=2 * SECONDS_TO_FETCH) as answer:  # so that whoever waits gives up first
            content = answer.read(BYTES_TO_FETCH + 1)
        got.append(content if len(content) <= BYTES_TO_FETCH else f"it has more than {BYTES_TO_FETCH >> 20} MiB")
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, HTTPError):
            error.close()  # it holds the connection
        got.append(str(error))


class _NoFtp(urllib.request.FTPHandler):
    """The one way but http that a redirection may take, closed."""

    def ftp_open(self, req: urllib.request.Request) -> NoReturn:
        raise URLError(f"unknown url type: {req.type}")
