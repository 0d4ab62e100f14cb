"""The one output folder of several machines: each has to see what rank 0 puts there."""

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ditmesh.batch.work_list import WorkList
from ditmesh.batch.writer import UNFINISHED, telling

MARK, SEEN = "mark", "seen"
PATIENCE = 15  # seconds that shared storage may take to show a new file


@contextmanager
def shared_folder(folder: Path, work: WorkList, rank: int, others: Sequence[int]) -> Iterator[None]:
    """Have one rank of each other machine look for a file of rank 0, which takes it away again at the end.

    Args:
        others: a rank of each machine beside that of rank 0.

    Raises:
        ValueError: it is not there.
    """
    if rank == 0 and others:
        mark = folder / f".{secrets.token_hex(8)}{UNFINISHED}"
        with telling(mark):
            mark.touch()
        work.publish(MARK, mark.name.encode())
        yield
        for other in others:
            work.read(f"{SEEN}{other}")
        mark.unlink(missing_ok=True)
        return
    if rank in others:
        look_for(folder, work.read(MARK).decode())
        work.publish(f"{SEEN}{rank}", b"")
    yield


def look_for(folder: Path, name: str) -> None:
    """Wait until a file is there."""
    began = time.monotonic()
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)  # network storage may remember that it was not there
    while not (folder / name).exists():
        if time.monotonic() - began > PATIENCE:
            raise ValueError(
                f"--output_dir {folder} here is not the folder that rank 0 writes to; every machine has to see the "
                f"same one: name a folder on storage that they share."
            )
        time.sleep(0.1)
