"""Which weights a model has, in a word, without reading more of them than a few bytes of each tensor."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ditmesh.job.facts import INDEX, find_file

SAMPLE, WHOLE = 64, 1 << 20  # bytes of a tensor; of a file that is read whole
PLACES = 256  # in a file that does not say where its tensors are
LENGTH = 8  # bytes that say how long the header of a safetensors file is


def fingerprint(model: str, components: Iterable[str] = ()) -> str:
    """A number that other weights have not, wherever they lie: of a folder or a file; of a hub id its commit.

    Args:
        components: the subfolders that belong to the model.
    """
    place = Path(model).expanduser()
    if not place.exists():
        return f"{model}@{find_file(model, INDEX, '--model_name', 'so it is no pipeline').parent.name}"
    files = [place / INDEX, *(path for name in components for path in (place / name).rglob("*") if path.is_file())]
    found = hashlib.blake2b(digest_size=8)
    for path in sorted(files) if place.is_dir() else [place]:
        size = path.stat().st_size
        found.update(f"{path.relative_to(place)} {size}\n".encode(errors="surrogateescape"))
        with path.open("rb") as file:
            for sample in _samples(file, size, path.suffix == ".safetensors"):
                found.update(sample)
    return found.hexdigest()


def _samples(file: BinaryIO, size: int, has_header: bool) -> Iterator[bytes]:
    if size <= WHOLE:
        yield file.read()
        return
    places = [size * i // PLACES for i in range(PLACES)]
    if has_header:
        length = int.from_bytes(file.read(LENGTH), "little")
        header = file.read(min(length, size))
        yield header
        places = [LENGTH + length + middle for middle in _middles(header)]
    for place in places:
        file.seek(place)
        yield file.read(SAMPLE)


def _middles(header: bytes) -> list[int]:
    """Where the middle of each tensor lies behind the header."""
    try:
        tensors: dict[str, Any] = json.loads(header)
    except ValueError:
        return []
    offsets = [entry["data_offsets"] for entry in tensors.values() if "data_offsets" in entry]
    return sorted(max(begin, (begin + end - SAMPLE) // 2) for begin, end in offsets)
