"""The images that go into a call: found before anything is loaded, opened before the pipeline is."""

import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ditmesh.job.example import Example, Images

if TYPE_CHECKING:
    from PIL import Image

SECONDS_TO_FETCH = 60
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


def open_inputs(inputs: Inputs, takes: Images | None) -> dict[str, Any]:
    """The images as arguments of the call.

    Raises:
        ValueError: one cannot be fetched, or is no image.
    """
    if takes is None:
        return {}
    images = [_resized(_open(path).convert(takes.mode), inputs) for path in inputs.images]
    arguments: dict[str, Any] = {takes.image: images if takes.many else images[0]} if images else {}
    if takes.mask and inputs.mask:
        arguments[takes.mask] = _resized(_open(inputs.mask).convert("L"), inputs)
    return arguments


def _resized(image: "Image.Image", inputs: Inputs) -> "Image.Image":
    width, height = image.size
    if inputs.height is None and inputs.width is None:
        return image
    new_width = inputs.width or max(1, round(width * (inputs.height or height) / height))
    new_height = inputs.height or max(1, round(height * new_width / width))
    return image.resize((new_width, new_height))


def _open(path: str) -> "Image.Image":
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        image = Image.open(BytesIO(_fetch(path)) if path.startswith(WEB) else Path(path).expanduser())
        return ImageOps.exif_transpose(image)
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is no image that Pillow can read; use PNG or JPEG.") from error
    except OSError as error:
        raise ValueError(f"the image {path} cannot be read: {error}") from error


def _fetch(url: str) -> bytes:
    request = urllib.request.Request(url, headers={"User-Agent": "ditmesh"})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS_TO_FETCH) as answer:
            return answer.read()
    except (urllib.error.URLError, TimeoutError) as error:
        raise ValueError(f"the image {url} cannot be fetched: {error}; download it, and give the file.") from error
