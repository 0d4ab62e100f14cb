"""Reach into a module: expand globs of names, bind the arguments of a forward."""

import inspect
from contextlib import ExitStack
from typing import Any

from torch import nn


def expand(model: nn.Module, pattern: str) -> list[tuple[str, nn.Module]]:
    """Every (name, module) that a glob of the sheet's vocabulary names; "" is the model itself.

    Raises:
        ValueError: no module has that name, and the glob does not end in "?".
    """
    optional = pattern.endswith("?")
    found = [("", model)]
    for atom in pattern.removesuffix("?").split(".") if pattern else []:
        found = [
            (f"{name}.{child}".lstrip("."), module)
            for name, parent in found
            for child, module in list(parent.named_children())[-1 if atom == "-1" else 0 :]
            if atom in ("*", "-1", child)
        ]
    if not found and not optional:
        raise ValueError(f"{type(model).__name__} has no module named {pattern!r}, which its fact sheet names.")
    return found


def argument_names(module: nn.Module) -> list[str]:
    """The names of the arguments a module's forward takes, in order."""
    return list(inspect.signature(type(module).forward).parameters)[1:]


def bind(names: list[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """A call's arguments by name."""
    return dict(zip(names, args, strict=False)) | kwargs


def override(owner: Any, name: str, value: Any, undo: ExitStack) -> None:
    """Give an instance, and no other of its class, another attribute or method; ``undo`` takes what takes it back."""
    own = vars(owner)
    if name in own:
        undo.callback(own.__setitem__, name, own[name])
    else:
        undo.callback(own.pop, name)
    own[name] = value
