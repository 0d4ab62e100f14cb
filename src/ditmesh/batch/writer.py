"""Write a file as a whole or not at all."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

UNFINISHED = ".unfinished"
KEPT = "The finished pictures are kept: free some space, and the same command goes on from there."


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
