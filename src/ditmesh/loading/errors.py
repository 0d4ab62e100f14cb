"""What goes wrong while something loads, in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from safetensors import SafetensorError

LETTERS = 400
LOADING = (ImportError, OSError, ValueError, RuntimeError, KeyError, TypeError, EOFError, SafetensorError)


@contextmanager
def told_in_a_line(source: Any) -> Iterator[None]:
    """Make a refusal of what loading raises: a package is missing, or a file is cut off, damaged or not there.

    Raises:
        ValueError: what cannot be loaded, and why.
    """
    try:
        yield
    except LOADING as error:
        why = " ".join(str(error).split())[:LETTERS]
        raise ValueError(
            f"{source} cannot be loaded: {why} ({type(error).__name__}); if its files are damaged or incomplete, "
            f"download or save them again."
        ) from error
