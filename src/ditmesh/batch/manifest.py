"""The list of finished pictures: a line of JSON for each, on the disk before the picture appears."""

import hashlib
import json
import os
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np

from ditmesh.batch.folder import MANIFEST
from ditmesh.batch.writer import UNFINISHED, prepared, telling
from ditmesh.job.numbers import LARGEST

Record = dict[str, Any]
NUMBERS, TEXTS = ("index", "image", "noise_seed", "bytes"), ("file", "prompt", "sha256")
IDENTITY = re.compile(r"[0-9a-f]{16}")
DAMAGED = ".damaged"
READ_AT_ONCE = 8  # files


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
    except (ValueError, RecursionError):
        return None
    if not line.endswith(b"\n") or not isinstance(record, dict):
        return None
    numbers, texts = [record.get(name) for name in NUMBERS], [record.get(name) for name in (*TEXTS, "identity")]
    if not all(type(number) is int and 0 <= number <= LARGEST for number in numbers):
        return None
    if not all(isinstance(text, str) for text in texts) or not IDENTITY.fullmatch(record["identity"]):
        return None
    file = PurePosixPath(record["file"])
    return None if file.is_absolute() or ".." in file.parts or "\0" in record["file"] else record


class Manifest:
    """The manifest of an output folder; one process writes it, while it holds the folder."""

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / MANIFEST
        self.damaged: list[str] = []  # files that were found to be other than they were written

    def listed(self) -> np.ndarray:
        """The identities of all pictures it lists, whatever became of their files; sorted."""
        return _sorted(int(record["identity"], 16) for _, record in records(self.path))

    def begin(self, resume: bool) -> np.ndarray:
        """Keep the records whose files are there as they were written, and drop the others.

        A file that is not as it was written gets another name, as it may be somebody's work.

        Returns:
            the identities of the pictures kept, sorted.
        """
        with telling(self.path), self._replaced() as file:
            return _sorted(int(record["identity"], 16) for record in self._whole(resume) if file.write(_line(record)))

    def enter(self, record: Mapping[str, object], name: str, data: bytes) -> None:
        """Add a record, and put the picture it tells of into the folder.

        In this order: a picture that no record tells of would be in the way of the next job.
        """
        with prepared(self.folder, name, data) as written:
            self.append({**record, **written})

    def append(self, record: Record) -> None:
        """Add a record; it is on the disk when this returns."""
        with telling(self.path), self.path.open("ab") as file:
            file.write(_line(record))
            file.flush()
            os.fsync(file.fileno())

    def finish(self) -> int:
        """Bring the records into the order of the rows, and leave one for each file; how many there are."""
        with telling(self.path), self._replaced() as file:
            return sum(1 for record in self._last() if file.write(_line(record)))

    def _last(self) -> Iterator[Record]:
        """The last record of each file, in the order of the rows; in memory there are four numbers of each."""
        found = array("q")
        for place, record in records(self.path):
            found.extend((hash(record["file"]), record["index"], record["image"], place))
        if not found:
            return
        file, index, image, place = np.frombuffer(found, dtype=np.int64).reshape(-1, 4).T
        by_file = np.lexsort((place, file))
        last = by_file[np.append(np.diff(file[by_file]) != 0, True)]
        with self.path.open("rb") as source:
            for at in place[last[np.lexsort((image[last], index[last]))]]:
                source.seek(int(at))
                yield json.loads(source.readline())

    def _whole(self, resume: bool) -> Iterator[Record]:
        """The records whose files are there; a few files are read at once."""
        left = self._last() if resume else iter(())
        with ThreadPoolExecutor(READ_AT_ONCE) as pool:
            while some := list(islice(left, READ_AT_ONCE)):
                yield from (record for record, whole in zip(some, pool.map(self._is_whole, some), strict=True) if whole)

    def _is_whole(self, record: Record) -> bool:
        path = self.folder / record["file"]
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size == record["bytes"] and hashlib.file_digest(file, "sha256").hexdigest() == record["sha256"]:
                    return True
            os.replace(path, path.with_name(f"{path.name}{DAMAGED}"))
            self.damaged.append(record["file"])
        except (OSError, ValueError):  # it is not there, or its name is no name
            pass
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


def _sorted(identities: Iterable[int]) -> np.ndarray:
    return np.unique(np.fromiter(identities, dtype=np.uint64))


def is_among(identity: int, identities: np.ndarray) -> bool:
    """Whether a sorted array holds a number."""
    at = int(np.searchsorted(identities, np.uint64(identity)))
    return at < len(identities) and int(identities[at]) == identity


def _line(record: Record) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode(errors="surrogatepass") + b"\n"
