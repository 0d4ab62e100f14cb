"""Reach into a module: expand globs of names, replace parameters, bind the arguments of a forward, link its blocks."""

import inspect
import itertools
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from ditmesh.spec import Blocks, ModelSpec

Streams = dict[str, Tensor | None]


def expand(model: nn.Module, pattern: str) -> list[tuple[str, nn.Module]]:
    """Every (name, module) that a glob of the sheet's vocabulary names; "" is the model itself.

    Raises:
        ValueError: no module has that name, and the glob does not end in "?".
    """
    found: list[tuple[str, nn.Module]] = []
    for names in pattern.removesuffix("?").split("|"):
        found = found or _expand(model, names)
    if not found and not pattern.endswith("?"):
        raise ValueError(f"{type(model).__name__} has no module named {pattern!r}, which its fact sheet names.")
    return found


def _expand(model: nn.Module, names: str) -> list[tuple[str, nn.Module]]:
    found = [("", model)]
    for atom in names.split(".") if names else []:
        found = [
            (f"{name}.{child}".lstrip("."), module)
            for name, parent in found
            for child, module in list(parent.named_children())[-1 if atom == "-1" else 0 :]
            if atom in ("*", "-1", child)
        ]
    return found


def without_adapter(module: nn.Module) -> nn.Module:
    """The module that an adapter layer (peft's) wraps, or the module itself."""
    while "base_layer" in module._modules:
        module = module.get_submodule("base_layer")
    return module


def parameter(x: Tensor, before: Tensor) -> nn.Parameter:
    """A parameter of these values that wants a gradient if the one before did."""
    return nn.Parameter(x.detach(), requires_grad=before.requires_grad)


def check_present(module: nn.Module) -> None:
    """Refuse weights that are elsewhere.

    Raises:
        ValueError: a parameter is on the meta device, as sequential offloading keeps it between its uses.
    """
    for name, weight in module.named_parameters():
        if weight.is_meta:
            raise ValueError(
                f"{name} of this {type(module).__name__} has no values here, so it can be neither cut nor put together "
                f"again; call pipe.remove_all_hooks() before (enable_sequential_cpu_offload may be called after)."
            )


def argument_names(module: nn.Module) -> list[str]:
    """The names of the arguments a module's forward takes, in order."""
    return list(inspect.signature(type(module).forward).parameters)[1:]


def bind(names: list[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """A call's arguments by name."""
    return dict(zip(names, args, strict=False)) | kwargs


class Link:
    """One block of a chain: what it takes, runs and returns.

    Attributes:
        run: the block's forward.
        returns: what it returns, in order, by the names of the arguments that take it; "" for what none takes.
        back: the earlier block whose output this one takes beside that of the block before.
    """

    back: "Link | None" = None

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
    found = [Link(block, blocks.returns) for _, block in expand(model, f"{blocks.path}.*")]
    if blocks.reaches_back is not None:
        for number, link in enumerate(found):
            back = blocks.reaches_back(number, len(found))
            link.back = None if back is None else found[back]
    return found


def chain(model: nn.Module, spec: ModelSpec) -> list[Link]:
    """The blocks of all lists that may run elsewhere, in the order they run."""
    found: list[Link] = []
    lists = [blocks for blocks in spec.blocks if not blocks.apart]
    for in_turn, group in itertools.groupby(lists, key=lambda blocks: blocks.takes_turns):
        each = [links(model, blocks) for blocks in group]
        found += itertools.chain(*(zip(*each, strict=True) if in_turn else each))
    return found


def foreign_hooks(model: nn.Module, blocks: Iterable[nn.Module]) -> bool:
    """Whether somebody else has hooked into a module between the model itself and its blocks."""
    apart = {model, *(module for block in blocks for module in block.modules())}
    hooked = [(*x._forward_pre_hooks.values(), *x._forward_hooks.values()) for x in model.modules() if x not in apart]
    homes = [inspect.getmodule(hook) for hooks in hooked for hook in hooks]
    return any(home is None or home.__name__.partition(".")[0] != "ditmesh" for home in homes)


def override(owner: Any, name: str, value: Any, undo: ExitStack) -> None:
    """Give an instance, and no other of its class, another attribute or method; ``undo`` takes what takes it back."""
    own = vars(owner)
    if name in own:
        undo.callback(own.__setitem__, name, own[name])
    else:
        undo.callback(own.pop, name)
    own[name] = value


def repeated_blocks(kind: Any) -> list[str]:
    """The classes of blocks that diffusers compiles one by one in models of this class; none where it does not say."""
    return kind._repeated_blocks or []
