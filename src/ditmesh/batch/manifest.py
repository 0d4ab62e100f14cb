"""The list of finished pictures: a line of JSON for each, on the disk before the picture counts as done."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ditmesh.batch.writer import UNFINISHED, telling

NAME = "manifest.jsonl"
Record = dict[str, Any]


def records(path: Path) -> Iterator[tuple[int, Record]]:
    """The records that are complete, with the place in the file where each begins."""
    if not path.exists():
        return
    with path.open("rb") as file:
        place = 0
        for line in file:
            record = _read(line)
            if record is not None:
                yield place, record
            place += len(line)


def _read(line: bytes) -> Record | None:
    """A line as a record; None if it was cut off, or is something else."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if line.endswith(b"\n") and isinstance(record, dict) and "identity" in record else None


class Manifest:
    """The manifest of an output folder; one process of a job writes it."""

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / NAME

    def begin(self, resume: bool) -> np.ndarray:
        """Keep the records whose files are there and of the size they were, and drop the others.

        Returns:
            the identities of the pictures kept, sorted.
        """
        kept = []
        with telling(self.path), self._replaced() as file:
            for _, record in records(self.path) if resume else ():
                if self._is_there(record):
                    kept.append(int(record["identity"], 16))
                    file.write(_line(record))
        return np.unique(np.array(kept, dtype=np.uint64))

    def append(self, record: Record) -> None:
        """Add a record; it is on the disk when this returns."""
        with telling(self.path), self.path.open("ab") as file:
            file.write(_line(record))
            file.flush()
            os.fsync(file.fileno())

    def finish(self) -> None:
        """Bring the records into the order of the rows; of those for one file the last one stays."""
        places = {}
        for place, record in records(self.path):
            places[record["file"]] = (record["index"], record["image"], place)
        with telling(self.path), self._replaced() as file, self.path.open("rb") as source:
            for *_, place in sorted(places.values()):
                source.seek(place)
                file.write(source.readline())

    def _is_there(self, record: Record) -> bool:
        try:
            return (self.folder / record["file"]).stat().st_size == record["bytes"]
        except OSError:
            return False

    @contextmanager
    def _replaced(self) -> Iterator[BinaryIO]:
        """A file that takes the manifest's place when it is complete."""
        new = self.path.with_name(f".{self.path.name}{UNFINISHED}")
        try:
            with new.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, self.path)
        finally:
            new.unlink(missing_ok=True)


def _line(record: Record) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"
