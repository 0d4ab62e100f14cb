"""Write a picture as a whole or not at all, with what it was made from inside the file."""

import hashlib
import io
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

UNFINISHED = ".unfinished"
KEPT = "The finished pictures are kept: free some space, and the same command goes on from there."


def encode(pixels: np.ndarray, suffix: str, facts: Mapping[str, Any]) -> bytes:
    """[height, width, 3 or 4] in [0, 1] as a PNG or JPEG file, with the facts as its metadata."""
    image = Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8))
    file = io.BytesIO()
    if suffix == ".png":
        texts = PngInfo()
        for name, value in facts.items():
            texts.add_itxt(name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        image.save(file, "PNG", pnginfo=texts)
    else:
        comment = json.dumps(facts, ensure_ascii=False).encode()
        image.convert("RGB").save(file, "JPEG", quality=95, comment=comment[:65000])
    return file.getvalue()


def write(folder: Path, name: str, data: bytes) -> dict[str, Any]:
    """Write a file into a folder, where it appears when it is complete; what it holds, for the manifest.

    Raises:
        ValueError: it cannot be written, or its place is outside the folder.
    """
    path = folder / name
    unfinished = path.with_name(f".{path.name}{UNFINISHED}")
    try:
        if not path.parent.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{path} would lie outside {folder}, by a link; remove the link.")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with unfinished.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        except OSError:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise cannot_write(path, error) from error
    return {"file": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def cannot_write(path: Path, error: OSError) -> ValueError:
    """What a full disk, or one that may not be written, is told as."""
    return ValueError(f"cannot write {path}: {error.strerror or error}. {KEPT}")


def remove_unfinished(folder: Path) -> None:
    """What a process that was killed left half written."""
    for path in folder.rglob(f".*{UNFINISHED}"):
        path.unlink(missing_ok=True)
