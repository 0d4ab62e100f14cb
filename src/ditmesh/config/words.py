"""Names as users type them: what was probably meant, and errors for what is not there."""

import difflib
from collections.abc import Iterable
from dataclasses import fields
from typing import Any


def suggest(name: str, known: Iterable[str]) -> str:
    """A sentence that names what was probably meant, or all there is."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"use one of {', '.join(known)}."


def either(choices: Iterable[object]) -> str:
    """``a, b or c``."""
    *most, last = map(str, choices)
    return f"{', '.join(most)} or {last}" if most else last


def field_of(config: object, name: str) -> Any:
    """The value of a field by its name."""
    return vars(config)[name]


def refuse_unknown(config: type, given: Iterable[str]) -> None:
    """Raise a ValueError for the first field name that the configuration class does not have."""
    known = [f.name for f in fields(config) if f.init]
    for name in given:
        if name not in known:
            raise ValueError(f"{config.__name__} has no field {name!r}; {suggest(name, known)}")
