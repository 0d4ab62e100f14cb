"""The output folder of a job: the names in it that are ours, who works in it, and what a picture may not replace."""

import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ditmesh.batch.writer import telling

MANIFEST, FAILURES, SHEET, PAGE, LOCK = "manifest.jsonl", "failures.jsonl", "contact.png", "index.html", ".ditmesh.lock"
OURS = (MANIFEST, FAILURES, SHEET, PAGE, LOCK)
ANOTHER = "a file of that name is there, and is not this picture; choose another folder, or add --overwrite"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of a file system that has none


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other jobs out of a folder, also those of other machines; the system ends this with the process.

    Raises:
        ValueError: another job is at work there.
    """
    with telling(folder):
        folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    descriptor = _lock(path)
    try:
        holder = f"process {os.getpid()} of {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}"
        os.pwrite(descriptor, holder.encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _lock(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
            os.close(descriptor)
            raise ValueError(
                f"--output_dir {path.parent}: another job draws into this folder ({holder}); wait until it ends, or "
                f"choose another folder."
            ) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            return descriptor
        # Whoever held it before has removed it, and a third may have made it anew.
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            os.ftruncate(descriptor, 0)
            return descriptor
        os.close(descriptor)


def refusal(folder: Path, name: str, replaces: bool) -> str:
    """Why a picture cannot be put there; nothing if it can.

    Args:
        replaces: whether it may take the place of another file.
    """
    path = folder / name
    try:
        if path.parent != folder and not path.parent.resolve().is_relative_to(folder.resolve()):
            return "it would lie outside the folder, by a link; remove the link"
        if path.is_dir():
            return "a folder of that name is there; remove it, or choose another name"
        if path.parent.exists() and not os.access(path.parent, os.W_OK):
            return f"no permission to write into {path.parent}"
        path.lstat()
    except FileNotFoundError:
        return ""
    except OSError as error:  # too long, through a file, in a circle of links ...
        return f"no file can have that name there: {error.strerror or error}"
    return "" if replaces else ANOTHER
