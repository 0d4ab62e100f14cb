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
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError

from ditmesh.cli.examples.example import Example, Images
from ditmesh.cli.options import Options

if TYPE_CHECKING:
    from PIL import Image

    from ditmesh.cli.job import World

SECONDS_TO_FETCH, BYTES_TO_FETCH = 30, 64 * 2**20
BYTES_IN_STORE = 2**20  # at once: torch's store refuses values of more than 8 MiB
WEB = ("http://", "https://")
HANDLERS = (  # urllib's own but those of ftp, file and data
    urllib.request.ProxyHandler,
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    urllib.request.UnknownHandler,
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.HTTPRedirectHandler,
    urllib.request.HTTPErrorProcessor,
)
NOTHING: Mapping[str, bytes] = {}


@dataclass(frozen=True)
class Inputs:
    """The images a job was given: files or URLs, and the size they are brought to first."""

    images: tuple[str, ...] = ()
    mask: str | None = None
    height: int | None = None
    width: int | None = None


def find_inputs(options: Options, example: Example) -> Inputs:
    """The images asked for.

    Raises:
        ValueError: they are not there, the pipeline takes none, or it needs some that nobody gave.
    """
    paths = _split(options.image_path or [])
    takes = example.images
    for flag, given, argument in (
        ("--image-path", paths, takes and takes.image),
        ("--mask-image-path", options.mask_image_path, takes and takes.mask),
    ):
        if given and not argument:
            raise ValueError(f"{flag}: {example.name} takes no such image; leave it out.")
        if not given and argument and takes and takes.needed:
            raise ValueError(f"{example.name} needs an image that nobody gave; add {flag} FILE (or an http(s) URL).")
    if len(paths) > 1 and takes and not takes.many:
        raise ValueError(f"--image-path names {len(paths)} images, and {example.name} takes one; leave the others out.")
    for flag, side in (("--input-height", options.input_height), ("--input-width", options.input_width)):
        if side is not None and not paths:
            raise ValueError(f"{flag} is for images that go in, and there are none; add --image-path.")
    for path in (*paths, *([options.mask_image_path] if options.mask_image_path else [])):
        if not path.startswith(WEB) and not Path(path).expanduser().is_file():
            raise ValueError(f"there is no image {path}; check --image-path and --mask-image-path.")
    return Inputs(tuple(paths), options.mask_image_path, options.input_height, options.input_width)


def _split(given: Sequence[str]) -> list[str]:
    """Flags that may hold several paths by commas; a file that has a comma in its name, or a URL, is one."""
    paths = []
    for text in given:
        whole = Path(text).expanduser().is_file() or text.startswith(WEB)
        paths += [text] if whole else [path.strip() for path in text.split(",") if path.strip()]
    return paths


def fetch_for_all(inputs: Inputs, world: "World") -> dict[str, bytes]:
    """What is at each URL: rank 0 fetches it, and the others get it through the job's store."""
    urls = dict.fromkeys(path for path in (*inputs.images, inputs.mask or "") if path.startswith(WEB))
    if world.size == 1 or not urls:
        return {url: fetch_url(url) for url in urls}
    from ditmesh.batch.work_list import job_store  # with it comes torch

    store, fetched = job_store(), {}
    for number, url in enumerate(urls):
        key = f"image/{number}"
        if world.rank == 0:
            fetched[url] = fetch_url(url)
            parts = range(0, len(fetched[url]), BYTES_IN_STORE)
            for part, at in enumerate(parts):
                store.set(f"{key}/{part}", fetched[url][at : at + BYTES_IN_STORE])
            store.set(key, str(len(parts)))
        else:
            fetched[url] = b"".join(store.get(f"{key}/{part}") for part in range(int(store.get(key))))
    store.set(f"images/{world.rank}", "here")
    if world.rank == 0:
        store.wait([f"images/{rank}" for rank in range(world.size)])  # the store may be held by this process
    return fetched


def open_inputs(inputs: Inputs, takes: Images | None, fetched: Mapping[str, bytes] = NOTHING) -> dict[str, Any]:
    """The images as arguments of the call.

    Args:
        fetched: what is at the URLs; what is not among it is fetched.

    Raises:
        ValueError: one cannot be fetched, or is no image.
    """
    if takes is None:
        return {}
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
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        web = path.startswith(WEB)
        file = BytesIO(fetched[path] if path in fetched else fetch_url(path)) if web else Path(path).expanduser()
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                return ImageOps.exif_transpose(image).convert(mode)
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is no image that Pillow can read; use PNG or JPEG.") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"the image {path} is too large: {error}; make it smaller first.") from error
    except (OSError, SyntaxError, EOFError, struct.error) as error:
        raise ValueError(f"the image {path} cannot be read: {error}") from error


def fetch_url(url: str) -> bytes:
    """What is at a URL, by http or https alone, wherever it leads on to.

    Raises:
        ValueError: it cannot be had, is too large, or takes too long.
    """
    got: list[bytes | Exception] = []
    # In a thread: each read has its own timeout, and one that drips would never end.
    reader = threading.Thread(target=_read, args=(url, got), daemon=True)
    reader.start()
    reader.join(SECONDS_TO_FETCH)
    answer = got[0] if got else TimeoutError(f"it takes longer than {SECONDS_TO_FETCH} s")
    if isinstance(answer, bytes) and len(answer) <= BYTES_TO_FETCH:
        return answer
    why = f"it has more than {BYTES_TO_FETCH >> 20} MiB" if isinstance(answer, bytes) else answer
    raise ValueError(f"the image {url} cannot be fetched: {why}; download it, and give the file.")


def _read(url: str, got: list[bytes | Exception]) -> None:
    web = urllib.request.OpenerDirector()
    for handler in HANDLERS:
        web.add_handler(handler())
    try:
        with web.open(urllib.request.Request(url, headers={"User-Agent": "ditmesh"}), None, SECONDS_TO_FETCH) as answer:
            got.append(answer.read(BYTES_TO_FETCH + 1))
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, HTTPError):
            error.close()  # it holds the connection
        got.append(error)
