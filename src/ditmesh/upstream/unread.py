"""Weights of a file that nobody has read yet: what is done to them is written down, and done when they are read.

They pass for tensors on the CPU. Libraries rename, convert, chunk and stack what a checkpoint holds, and parallelism
cuts it, as ever. What comes out reads no more of the file than it is made of. An operation that has to know the numbers
reads them.
"""

from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.utils import swap_tensors
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ditmesh.upstream.trees import tree_leaves, tree_map

aten = torch.ops.aten
COPIES = (aten._to_copy.default, aten.clone.default)
SAME = (aten.detach.default, aten.alias.default)  # the same memory in the same form
# A part of a copy is the copy of a part, which is less to read.
PARTS = (aten.slice.Tensor, aten.select.int, aten.t.default, aten.transpose.int, aten.permute.default)
# What has the form of a tensor and none of its numbers.
BLANKS = (
    aten.empty_like,
    aten.full_like,
    aten.new_empty,
    aten.new_empty_strided,
    aten.new_full,
    aten.new_ones,
    aten.new_zeros,
    aten.ones_like,
    aten.zeros_like,
)


class Weight(NamedTuple):
    """A tensor of a safetensors file."""

    file: str
    key: str

    def read(self) -> Tensor:
        """The file's own memory: what is not used of it is not read, and what is written stays here."""
        with safe_open(self.file, framework="pt") as opened:
            return opened.get_tensor(self.key)


class Step(NamedTuple):
    """An operation on tensors, some of which nobody has read, and which of its outputs is meant."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: int = 0

    def read(self) -> Tensor:
        """Do it."""
        args, kwargs = tree_map(read, (self.args, self.kwargs))
        return tree_leaves(self.func(*args, **kwargs))[self.output]

    @property
    def is_view(self) -> bool:
        """Whether the output is memory of an argument."""
        return any(output.alias_info is not None for output in self.func._schema.returns)


class Origin:
    """What a tensor is made of. Tensors of the same memory have the same one."""

    def __init__(self, made_of: Weight | Step):
        self.made_of = made_of


class Unread(Tensor):
    """A tensor made of weights that nobody has read.

    Attributes:
        origin: what it is made of.
        form: the same on the meta device.
    """

    origin: Origin
    form: Tensor

    @staticmethod
    def __new__(cls: Any, origin: Origin, form: Tensor, device: Any = "cpu") -> "Unread":
        unread = Tensor._make_wrapper_subclass(
            cls, form.shape, strides=form.stride(), dtype=form.dtype, device=device, requires_grad=False
        )
        unread.origin, unread.form = origin, form
        return unread

    @classmethod
    def of(cls, file: str, key: str, form: Tensor) -> "Unread":
        """A tensor of a file."""
        return cls(Origin(Weight(file, key)), form)

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__()

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"Unread({tuple(self.shape)}, {self.dtype}, {self.origin.made_of})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            return _change(func, args, kwargs)
        if torch.Tag.nondeterministic_seeded in func.tags:  # in the order in which it was asked for
            return func(*tree_map(read, args), **tree_map(read, kwargs))
        if func.overloadpacket in BLANKS:
            return func(*tree_map(_form, args), **({"device": args[0].device} | kwargs))
        try:
            on_meta = {"device": "meta"} if kwargs.get("device") else {}
            form = func(*tree_map(_form, args), **(tree_map(_form, kwargs) | on_meta))
        except RuntimeError:  # what comes out depends on the numbers
            return func(*tree_map(read, args), **tree_map(read, kwargs))
        device = kwargs.get("device") or next(x for x in tree_leaves((args, kwargs)) if isinstance(x, Unread)).device
        forms = iter(range(len(tree_leaves(form))))
        return tree_map(lambda x: _step(Step(func, args, kwargs, next(forms)), x, device), form)


def weights_of(x: Any) -> set[Weight]:
    """The weights of files that a tensor is made of."""
    if not isinstance(x, Unread):
        return set().union(*(weights_of(part) for part in _parts(x)))
    made_of = x.origin.made_of
    if isinstance(made_of, Weight):
        return {made_of}
    return set().union(*map(weights_of, tree_leaves((made_of.args, made_of.kwargs))))


def _parts(x: Any) -> list[Tensor]:
    """The tensors inside one of a class of its own, as quantizers make them."""
    names = x.__tensor_flatten__()[0] if is_traceable_wrapper_subclass(x) else []
    return [part for part in (getattr(x, name) for name in names) if isinstance(part, Tensor)]


def nbytes(x: Tensor) -> int:
    """The bytes of a weight, or of the parts of a quantized one."""
    parts = _parts(x)
    return sum(map(nbytes, parts)) if parts else x.numel() * x.element_size()


def _step(step: Step, form: Any, device: Any) -> Any:
    if not isinstance(form, Tensor):
        return form
    if torch.device(device).type == "meta":
        return form
    of = step.args[0].origin if step.args and isinstance(step.args[0], Unread) else None
    if of is not None and step.func in SAME:
        return Unread(of, form, device)
    copy = None if of is None else of.made_of
    if step.func in PARTS and isinstance(copy, Step) and copy.func in COPIES and not copy.kwargs.get("memory_format"):
        part = step.func(copy.args[0], *step.args[1:], **step.kwargs)
        step = Step(copy.func, (part,), copy.kwargs)
    return Unread(Origin(step), form, device)


def _change(func: Any, args: Any, kwargs: Any) -> Any:
    """Write down a change of a tensor in place. One that was read changes now."""
    x = args[0]
    if not isinstance(x, Unread):
        return func(*tree_map(read, args), **tree_map(read, kwargs))
    before = x.origin.made_of
    if func(x.form, *tree_map(_form, args[1:]), **tree_map(_form, kwargs)) is not x.form or _is_part(before):
        raise TypeError(f"{func} cannot change a part of a weight that is not read yet: {x}")
    x.origin.made_of = Step(func, (Unread(Origin(before), x.form), *args[1:]), kwargs)
    return x


def _is_part(made_of: Weight | Step) -> bool:
    return isinstance(made_of, Step) and made_of.is_view and not made_of.func._schema.is_mutable


def _form(x: Any) -> Any:
    if isinstance(x, Unread):
        return x.form
    return x.to("meta") if isinstance(x, Tensor) else x


def read(x: Any) -> Any:
    """The numbers of what nobody has read; anything else as it is."""
    return x.origin.made_of.read() if isinstance(x, Unread) else x


def is_unread(x: Any) -> bool:
    """Whether something in a tensor is not read yet."""
    return isinstance(x, Unread) or any(map(is_unread, _parts(x)))


def fill(x: Tensor, device: torch.device) -> None:
    """Read a weight to a device; the tensor stays the same object.

    On the CPU one that is used as the file has it stays the file's memory, which the processes of a machine share.
    """
    if not isinstance(x, Unread):
        for part in _parts(x):
            fill(part, device)
        return
    made_of = x.origin.made_of
    numbers = made_of.read().to(device)
    if numbers.device.type == "cpu" and not isinstance(made_of, Weight) and _is_piece(numbers):
        numbers = numbers.clone()
    _replace(x, numbers)


def _is_piece(x: Tensor) -> bool:
    return x.untyped_storage().nbytes() > x.numel() * x.element_size()


def drop(weight: Tensor) -> None:
    """Free a parameter's memory, or never read it; it stays the same object."""
    empty = torch.empty(0, dtype=weight.dtype, device=weight.device)
    if isinstance(weight, Unread):
        _replace(weight, empty)
    else:
        weight.data = empty


def _replace(x: Tensor, numbers: Tensor) -> None:
    if isinstance(x, nn.Parameter):
        numbers = nn.Parameter(numbers, requires_grad=x.requires_grad)
    swap_tensors(x, numbers)
