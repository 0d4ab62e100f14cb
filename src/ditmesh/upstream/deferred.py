"""What a rank hands out for numbers that are not there yet, and how all ranks come to have them."""

import copy
from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.utils._pytree import tree_leaves, tree_map

FIRST, SECOND = 0, 1  # ranks, by the branch they run

# What may be asked of a tensor whose numbers are not there yet: its form, and what only says its numbers another way.
FORM = {"size", "dim", "numel", "stride", "is_floating_point", "is_complex", "is_contiguous", "__len__"}
RESTATED = {
    "view", "reshape", "flatten", "narrow", "unsqueeze", "squeeze", "transpose", "permute", "movedim", "chunk", "split",
    "unbind", "detach", "contiguous", "clone", "to", "float", "half", "bfloat16", "double", "__get__",
}  # fmt: skip
PLAIN_INDEX = int | slice | type(None) | type(Ellipsis)


class Maker(Protocol):
    """Who makes the numbers of a promise, on all ranks at once.

    Attributes:
        settled: they are there.
    """

    settled: bool

    def settle(self) -> None:
        """Have the numbers made, if they are not there."""
        ...

    def restate(self, func: Callable[..., Any], args: Any, kwargs: Any, out: Any) -> Any:
        """A promise of what says the same as one, or NotImplemented if only the numbers can."""
        ...


class Deferred(Tensor):
    """A tensor that another rank may still be working on; reading it waits for that rank."""

    pair: Maker

    @staticmethod
    def of(x: Any, pair: Maker) -> Any:
        """The same memory, as a promise; what is no tensor stays what it is."""
        if not isinstance(x, Tensor):
            return x
        promise = x.as_subclass(Deferred)
        promise.pair = pair
        return promise

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        pairs = [x.pair for x in tree_leaves((args, kwargs)) if isinstance(x, Deferred)]
        name = func.__name__
        is_restated = name in RESTATED or (name == "__getitem__" and _is_plain(args[1]))
        is_restated = is_restated and bool(args) and isinstance(args[0], Deferred)
        if is_restated and not pairs[0].settled:
            with torch._C.DisableTorchFunctionSubclass():
                restated = pairs[0].restate(func, args, kwargs, func(*args, **kwargs))
            if restated is not NotImplemented:
                return restated
        if name not in FORM:
            for pair in pairs:
                pair.settle()
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(plain(self), memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return plain(self).__reduce_ex__(protocol)


def _is_plain(index: Any) -> bool:
    return all(isinstance(x, PLAIN_INDEX) for x in (index if isinstance(index, tuple) else (index,)))


class Pair:
    """The two branches of one step.

    Attributes:
        first: the tensors of the first branch.
        settled: they are there.
    """

    def __init__(self, mesh: DeviceMesh, first: list[Tensor], alone: Callable[[], None]):
        self.mesh, self.first, self.alone = mesh, first, alone
        self.settled = False
        self.copies: list[Callable[[], None]] = []

    def restate(self, func: Callable[..., Any], args: Any, kwargs: Any, out: Any) -> Any:
        """A promise of what says the same as one; if it is no view of it, it is made again when the first is there."""
        source, copies = args[0].untyped_storage().data_ptr(), [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        if any(x.untyped_storage().data_ptr() != source for x in copies):
            self.copies.append(lambda: _refill(copies, func(*args, **kwargs)))
        return tree_map(lambda x: Deferred.of(x, self), out)

    def settle(self) -> None:
        """Fill the promise although there is no second branch: the first rank sends what it has."""
        if not self.settled:
            self.alone()
            self.complete([])

    def complete(self, second: list[Tensor]) -> None:
        """Exchange the branches: each rank has one of them, and leaves with both."""
        self.settled = True
        with torch._C.DisableTorchFunctionSubclass():
            for rank, tensors in ((FIRST, self.first), (SECOND, second)):
                for x in tensors:
                    dist.broadcast(x, group=self.mesh.get_group(), group_src=rank)
            for copy in self.copies:
                copy()
            self.copies = []


def _refill(copies: list[Tensor], now: Any) -> None:
    for made, x in zip(copies, (x for x in tree_leaves(now) if isinstance(x, Tensor)), strict=True):
        made.copy_(x)


class Later:
    """A tensor that all ranks have the memory of, and fill together when one of them would read it: so do all.

    Attributes:
        memory: the tensor, for who knows what is in it by now.
        fill: fills the memory, on every rank.
    """

    def __init__(self, memory: Tensor, fill: Callable[[Tensor], None]):
        self.memory, self.fill = memory, fill
        self.settled = False

    def promise(self) -> Tensor:
        """The tensor to hand out."""
        return Deferred.of(self.memory, self)

    def is_promised(self, x: Any) -> bool:
        """Whether this is a promise of the whole tensor, and nobody has read it."""
        return isinstance(x, Deferred) and x.pair is self and not self.settled and same(x, self.memory)

    def settle(self) -> None:
        """Fill the memory if it is not filled."""
        if not self.settled:
            self.settled = True
            self.fill(self.memory)

    def restate(self, func: Callable[..., Any], args: Any, kwargs: Any, out: Any) -> Any:
        """A view of the memory is a promise too; a copy of it would have to be filled on its own."""
        memory = self.memory.untyped_storage().data_ptr()
        if any(isinstance(x, Tensor) and x.untyped_storage().data_ptr() != memory for x in tree_leaves(out)):
            return NotImplemented
        return tree_map(lambda x: Deferred.of(x, self), out)


def same(x: Any, y: Any) -> bool:
    """Whether two tensors are the same memory in the same form."""
    x, y = bare(x), bare(y)
    if not (isinstance(x, Tensor) and isinstance(y, Tensor) and x.numel() and x.data_ptr() == y.data_ptr()):
        return False
    return (x.shape, x.stride(), x.dtype, x.device) == (y.shape, y.stride(), y.dtype, y.device)


def bare(x: Any) -> Any:
    """The memory of a promise, whatever is in it."""
    if not isinstance(x, Deferred):
        return x
    with torch._C.DisableTorchFunctionSubclass():
        return x.as_subclass(Tensor)


def plain(x: Any) -> Any:
    """A promise that was kept, as the tensor it is."""
    if isinstance(x, Deferred):
        x.pair.settle()
    return bare(x)
