"""Write a file as a whole or not at all."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

UNFINISHED = ".unfinished"
KEPT = "The finished pictures are kept: free some space, and the same command goes on from there."


def write(folder: Path, name: str, data: bytes) -> dict[str, object]:
    """Write a file into a folder, where it appears when it is complete; what it holds, for the manifest.

    Raises:
        ValueError: it cannot be written, or its place is outside the folder.
    """
    path = folder / name
    unfinished = path.with_name(f".{path.name}{UNFINISHED}")
    with telling(path):
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
    return {"file": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


@contextmanager
def telling(path: Path) -> Iterator[None]:
    """Tell of a full disk, or one that may not be written, in words for a reader."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror or error}. {KEPT}") from error


def remove_unfinished(folder: Path) -> None:
    """What a process that was killed left half written."""
    for path in folder.rglob(f".*{UNFINISHED}"):
        path.unlink(missing_ok=True)
