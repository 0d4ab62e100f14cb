"""What goes wrong while something loads, in one line that names the file."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

LETTERS = 400
LOADING = (ImportError, OSError, ValueError, RuntimeError, KeyError, TypeError, EOFError, SafetensorError)


@contextmanager
def told_in_a_line(source: Any) -> Iterator[None]:
    """Make a refusal of what loading raises: a package is missing, or a file is cut off, damaged or not there.

    Args:
        source: the folder, file or hub id that is loaded.

    Raises:
        ValueError: what cannot be loaded, and why.
    """
    try:
        yield
    except LOADING as error:
        why = " ".join(str(error).split())[:LETTERS]
        raise ValueError(
            f"{_file(Path(source), error) or source} cannot be loaded: {why} ({type(error).__name__}); if its files "
            f"are damaged or incomplete, download or save them again."
        ) from error


def _file(source: Path, error: Exception) -> Path | None:
    """The file of a folder that an error is about, which may name only what it was to hold."""
    if isinstance(error, json.JSONDecodeError):
        return next((file for file in sorted(source.rglob("*.json")) if not _is_json(file)), None)
    named: dict[str, Path] = {}
    for file in source.rglob("*.safetensors"):
        with suppress(SafetensorError), safe_open(file, framework="pt") as opened:
            named |= {key: file for key in opened.keys() if key in str(error)}  # noqa: SIM118
    return named[max(named, key=len)] if named else None


def _is_json(file: Path) -> bool:
    with suppress(ValueError):
        json.loads(file.read_text())
        return True
    return False
