"""Write a file as a whole or not at all."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

UNFINISHED = ".unfinished"
KEPT = "The finished pictures are kept: free some space, and the same command goes on from there."
# What is wrong with one name, and not with the disk.
OF_ONE_NAME = (errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EILSEQ)


class BadName(ValueError):
    """No file can have this name here."""


def write(folder: Path, name: str, data: bytes) -> dict[str, object]:
    """Write a file into a folder, where it appears when it is complete; what it holds, for the manifest."""
    with prepared(folder, name, data) as written:
        return written


@contextmanager
def prepared(folder: Path, name: str, data: bytes) -> Iterator[dict[str, object]]:
    """Write a file that appears in the folder when the block is left without an error; what it holds.

    Raises:
        BadName: it cannot have that name.
        ValueError: nothing can be written there.
    """
    path = folder / name
    unfinished = path.with_name(f".{path.name}{UNFINISHED}")
    with telling(path):
        if not path.parent.resolve().is_relative_to(folder.resolve()):
            raise BadName(f"{path} would lie outside {folder}, by a link; remove the link.")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield {"file": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            os.replace(unfinished, path)
        except OSError as error:
            if error.errno in OF_ONE_NAME:
                raise BadName(f"no file can be named {path}: {error.strerror}.") from error
            raise
        finally:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)


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
        if path.is_file():
            path.unlink(missing_ok=True)
