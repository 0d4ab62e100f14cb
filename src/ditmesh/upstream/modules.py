"""Reach into a module: expand globs of names, replace parameters, bind the arguments of a forward, link its blocks."""

import copy
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._dynamo.eval_frame import set_eval_frame
from torch._dynamo.decorators import skip
from torch._dynamo.eval_frame import OptimizedModule

from ditmesh.spec import Blocks, ModelSpec
from ditmesh.upstream.unread import Unread

Streams = dict[str, Tensor | None]
SKIPS = "_ditmesh_skips"  # the attribute of a block that says whether its next call may leave it out
COMPILER = "_ditmesh_compiler"  # the attribute of a module that holds the compiler at work when it was called last

HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)


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


def own_weights(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """The weights in a module, each with the module that holds it and its name there; not those of adapters in it."""
    module = without_adapter(module)
    yield from ((module, name, weight) for name, weight in module.named_parameters(recurse=False))
    for child in module.children():
        yield from own_weights(child)


def parameter(x: Tensor, before: Tensor) -> nn.Parameter:
    """A parameter of these values that wants a gradient if the one before did."""
    return x if isinstance(x, nn.Parameter) else nn.Parameter(x.detach(), requires_grad=before.requires_grad)


def unwrapped(module: object) -> Any:
    """The module that ``torch.compile`` made a callable of, or what was given."""
    while isinstance(module, OptimizedModule):
        module = module._orig_mod
    return module


def check_plain(title: str, module: nn.Module, axis: str, instead: str) -> None:
    """Refuse a module's own weights that are no plain tensors of numbers, which only those of linears may be.

    Raises:
        ValueError: quantized weights, whatever made them: by a class of their own, or as whole numbers.
    """
    for name, weight in module.named_parameters(recurse=False):
        is_plain = type(weight) is nn.Parameter or isinstance(weight, Unread)
        if not (is_plain and weight.is_floating_point()):
            kind = str(weight.dtype) if is_plain else type(weight).__name__
            raise ValueError(
                f"{title}.{name} is a {kind}, not a plain weight, and {axis} cannot cut it; leave quantization off, or "
                f"{instead}"
            )


def check_present(module: nn.Module) -> None:
    """Refuse weights that are elsewhere.

    Raises:
        ValueError: a parameter is on the meta device, as accelerate keeps what it offloads to the disk.
    """
    for name, weight in module.named_parameters():
        if weight.is_meta:
            raise ValueError(
                f"{name} of this {type(module).__name__} has no values here, so it can be neither cut nor put together "
                f"again; call pipe.remove_all_hooks() first (enable_sequential_cpu_offload works, before and after)."
            )


def argument_names(module: nn.Module) -> list[str]:
    """The names of the arguments a module's forward takes, in order."""
    return list(inspect.signature(type(module).forward).parameters)[1:]


def bind(names: list[str], args: tuple[object, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
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

    def streams(self, args: tuple[object, ...], kwargs: dict[str, Any]) -> Streams:
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


def held(owner: object, name: str, otherwise: object = None) -> Any:
    """What an instance itself, and not its class, has under a name."""
    return vars(owner).get(name, otherwise)


def seats(module: nn.Module) -> dict[str, Any]:
    """The very dictionary of a module's children, whose entries may be replaced."""
    return module._modules


def twin(module: nn.Module, children: dict[str, Any]) -> nn.Module:
    """A module of the same parameters and buffers, with hooks and children of its own."""
    made = copy.copy(module)  # the very dictionaries of parameters and buffers: what moves one moves both
    vars(made).update({hooks: vars(module)[hooks].copy() for hooks in HOOKS}, _modules=children)
    return made


def on_meta(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A module of the same shapes, without values, and without what others hooked into it or wrapped around it."""
    made = copy.copy(module)
    own, kept = vars(made), vars(module)
    own.update({hooks: type(kept[hooks])() for hooks in HOOKS}, _compiled_call_impl=None)
    own.pop("forward", None)
    for kind in ("_parameters", "_buffers"):
        own[kind] = {name: None if x is None else _no_values(x, dtype) for name, x in kept[kind].items()}
    own["_modules"] = {
        name: None if child is None else on_meta(child, dtype) for name, child in kept["_modules"].items()
    }
    return made


def _no_values(x: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty(x.shape, dtype=dtype if x.is_floating_point() else x.dtype, device="meta")


def override(owner: object, name: str, value: object, undo: ExitStack) -> None:
    """Give an instance, and no other of its class, another attribute or method; ``undo`` takes what takes it back."""
    own = vars(owner)
    if name in own:
        undo.callback(own.__setitem__, name, own[name])
    else:
        undo.callback(own.pop, name)
    own[name] = value


def set_facts(module: nn.Module, facts: Mapping[str, Any], undo: ExitStack) -> None:
    """Tell an instance what it holds now, where it keeps that fact."""
    missing = object()
    for fact, value in facts.items():
        if held(module, fact, missing) is not missing:
            override(module, fact, value, undo)


def repeated_blocks(kind: Any) -> list[str]:
    """The classes of blocks that diffusers compiles one by one in models of this class; none where it does not say."""
    return kind._repeated_blocks or []


def intercept_call(model: nn.Module, call: Callable[..., Any], undo: ExitStack) -> Callable[..., Any]:
    """Let ``call`` stand in for a module's call, hooks and all, compiled or not; it may be intercepted again.

    A compiler, asked for before or after, never sees ``call`` and what that waits for; what is returned it does.

    Returns:
        What ran before.
    """
    before, compile_model = model._compiled_call_impl or model._call_impl, model.compile
    compiler: list[Any] = vars(model).get(COMPILER, [None])
    asked: list[tuple[Any, Any]] = []

    @skip
    def aside(*args: Any, **kwargs: Any) -> Any:
        compiler[0] = at_work = set_eval_frame(None)
        try:
            return call(*args, **kwargs)
        finally:
            set_eval_frame(at_work)

    @skip
    def run(*args: Any, **kwargs: Any) -> Any:
        outside = set_eval_frame(compiler[0])
        try:
            return before(*args, **kwargs)
        finally:
            set_eval_frame(outside)

    def remember(*args: Any, **kwargs: Any) -> None:
        asked[:] = [(args, kwargs)]
        compile_model(*args, **kwargs)

    undo.callback(lambda: [compile_model(*args, **kwargs) for args, kwargs in asked])
    override(model, COMPILER, compiler, undo)
    override(model, "_call_impl", aside, undo)
    override(model, "_compiled_call_impl", None, undo)
    override(model, "compile", remember, undo)
    return run
