"""Deferred tensors: what a rank hands out for numbers that are not there yet, and how all ranks come to have them."""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ditmesh.runtime.mesh import Axis
from ditmesh.upstream.trees import map_tensors, tensors, tree_leaves, tree_map

FIRST, SECOND = 0, 1  # ranks, by the branch they run

# What may be asked of a deferred tensor as it is: its form, and what says the same numbers in another way.
FORM = {Tensor.size, Tensor.dim, Tensor.numel, Tensor.stride, Tensor.is_contiguous, Tensor.__len__, torch.numel}
FORM |= {Tensor.is_floating_point, Tensor.is_complex, torch.is_floating_point, torch.is_complex}
RESTATED = {
    Tensor.view, Tensor.reshape, Tensor.flatten, Tensor.narrow, Tensor.unsqueeze, Tensor.squeeze, Tensor.transpose,
    Tensor.permute, Tensor.movedim, Tensor.chunk, Tensor.split, Tensor.unbind, Tensor.detach, Tensor.contiguous,
    Tensor.clone, Tensor.to, Tensor.float, Tensor.half, Tensor.bfloat16, Tensor.double,
    torch.reshape, torch.flatten, torch.narrow, torch.unsqueeze, torch.squeeze, torch.transpose, torch.permute,
    torch.movedim, torch.chunk, torch.split, torch.unbind, torch.detach, torch.clone,
}  # fmt: skip
PLAIN_INDEX = int | slice | type(None) | type(Ellipsis)


class Source:
    """Where the numbers of deferred tensors come from. All ranks get them at once.

    Attributes:
        settled: they are there.
    """

    def __init__(self) -> None:
        self.settled = False
        self.copies: list[Callable[[], None]] = []

    def settle(self) -> None:
        """Get the numbers, if they are not there."""
        raise NotImplementedError

    def restate(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """What says the same numbers in another way is deferred too. A copy is made again when they are there."""
        out, memory = func(*args, **kwargs), args[0].untyped_storage().data_ptr()
        copies = tensors(out)
        if any(x.untyped_storage().data_ptr() != memory for x in copies):
            self.copies.append(lambda: _refill(copies, func(*args, **kwargs)))
        return map_tensors(lambda x: Deferred.of(x, self), out)

    def _refill_copies(self) -> None:
        with torch._C.DisableTorchFunctionSubclass():
            for refill in self.copies:
                refill()
        self.copies = []


class Deferred(Tensor):
    """A tensor that another rank may still be working on. Reading it waits for that rank."""

    source: Source

    @staticmethod
    def of(x: Tensor, source: Source) -> "Deferred":
        """The same memory, deferred."""
        deferred = x.as_subclass(Deferred)
        deferred.source = source
        return deferred

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        sources = [x.source for x in tree_leaves((args, kwargs)) if isinstance(x, Deferred)]
        is_attribute = func.__name__ == "__get__"
        restates = is_attribute or func in RESTATED or (func is Tensor.__getitem__ and _is_plain(args[1]))
        if restates and args and isinstance(args[0], Deferred) and not args[0].source.settled:
            with torch._C.DisableTorchFunctionSubclass():
                return args[0].source.restate(func, args, kwargs)
        if func not in FORM:
            for source in sources:
                source.settle()
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(plain(self), memo)

    def __reduce_ex__(self, protocol: object) -> Any:
        return plain(self).__reduce_ex__(protocol)


def _is_plain(index: object) -> bool:
    return all(isinstance(x, PLAIN_INDEX) for x in (index if isinstance(index, tuple) else (index,)))


def _refill(copies: list[Tensor], now: object) -> None:
    for made, x in zip(copies, tensors(now), strict=True):
        made.copy_(x)


class Pair(Source):
    """The two branches of one step.

    Attributes:
        first: the tensors of the first branch.
        awaits: the rank of the first branch may be at it until the other one runs the second, or idles.
    """

    def __init__(self, mesh: Axis, first: list[Tensor], alone: Callable[[], None], awaits: bool):
        super().__init__()
        self.mesh, self.first, self.alone, self.awaits = mesh, first, alone, awaits

    def settle(self) -> None:
        """Fill the first branch although there is no second: the first rank sends what it has."""
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
        self._refill_copies()


class Later(Source):
    """A tensor that every rank has the memory of. All ranks fill it when its numbers are asked for.

    Attributes:
        memory: the tensor, for those who know what is in it by now.
        fill: fills the memory, on every rank.
    """

    def __init__(self, memory: Tensor, fill: Callable[["Later"], None]):
        super().__init__()
        self.memory, self.fill = memory, fill

    def deferred(self) -> Tensor:
        """The tensor to hand out."""
        return Deferred.of(self.memory, self)

    def is_unread(self, x: object) -> bool:
        """Whether ``x`` is the whole of this tensor, and nobody has asked for its numbers."""
        return isinstance(x, Deferred) and x.source is self and not self.settled and same(x, self.memory)

    def settle(self) -> None:
        """Fill the memory, if it is not filled."""
        if not self.settled:
            self.settled = True
            self.fill(self)
            self._refill_copies()

    def put(self, numbers: Tensor) -> None:
        """Fill the memory with numbers that are there."""
        self.settled = True
        self.memory.copy_(numbers)
        self._refill_copies()


def same(x: object, y: object) -> bool:
    """Whether two tensors are the same memory in the same form."""
    x, y = bare(x), bare(y)
    if not (isinstance(x, Tensor) and isinstance(y, Tensor) and x.numel() and x.data_ptr() == y.data_ptr()):
        return False
    return (x.shape, x.stride(), x.dtype, x.device) == (y.shape, y.stride(), y.dtype, y.device)


def bare(x: object) -> Any:
    """The memory of a deferred tensor, whatever is in it."""
    if not isinstance(x, Deferred):
        return x
    with torch._C.DisableTorchFunctionSubclass():
        return x.as_subclass(Tensor)


def plain(tree: object) -> Any:
    """What was given, with the numbers of every deferred tensor in it."""
    deferred = [x for x in tree_leaves(tree) if isinstance(x, Deferred)]
    for x in deferred:
        x.source.settle()
    return tree_map(bare, tree) if deferred else tree
