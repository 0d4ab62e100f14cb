"""Reach into a module: expand globs of names, bind the arguments of a forward, link its blocks."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ditmesh.spec import Blocks

Streams = dict[str, Tensor | None]


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


def uncompiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that a compiled module calls as it is, since what it does differs from call to call."""
    plain: Any = torch.compiler.disable(function)
    return plain


class Link:
    """One block of a chain: what it takes, runs and returns.

    Attributes:
        run: the block's forward.
        returns: what it returns, in order, by the names of the arguments that take it; "" for what none takes.
    """

    def __init__(self, block: nn.Module, returns: tuple[str, ...]):
        self.block, self.returns = block, returns
        self.run: Callable[..., Any] = block.forward
        self.names = argument_names(block)

    def streams(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Streams:
        """The streams among the arguments of a call."""
        given = bind(self.names, args, kwargs)
        return {name: given.get(name) for name in self.returns if name}

    def unpack(self, output: Any) -> Streams:
        """The streams a call returned."""
        values = output if isinstance(output, tuple) else (output,)
        return {name: x for name, x in zip(self.returns, values, strict=True) if name}

    def pack(self, streams: Streams) -> Any:
        """The streams as a call returns them."""
        values = [streams.get(name) for name in self.returns]
        return tuple(values) if len(values) > 1 else values[0]


def links(model: nn.Module, blocks: Blocks) -> list[Link]:
    """The blocks of one list."""
    return [Link(block, blocks.returns) for _, block in expand(model, f"{blocks.path}.*")]
