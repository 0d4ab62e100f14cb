"""Count what operators and collectives do, from the tensors they are given."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple

import torch.distributed as dist
from torch import Tensor

from ditmesh.config import AXES, ParallelismConfig, rank_groups
from ditmesh.planner.workload import Message, Operator
from ditmesh.upstream.alone import group_of, is_waited_for_at_once
from ditmesh.upstream.operators import ATTENTION, COLLECTIVES, CONVOLUTIONS, FREE, PRODUCTS, is_view, name_of
from ditmesh.upstream.trees import tensors


class Shape(NamedTuple):
    """The product that an operator is, [m, k] x [k, n] for each of a batch, and how many operations it takes."""

    kind: str
    flops: int
    m: int = 1
    n: int = 1
    k: int = 1
    batch: int = 1


def _product(a: Tensor, b: Tensor) -> Shape:
    a, b = a if a.ndim > 1 else a[None], b if b.ndim > 1 else b[:, None]
    m, k, n, batch = a.shape[-2], a.shape[-1], b.shape[-1], prod(a.shape[:-2])
    return Shape("matmul", 2 * batch * m * n * k, m, n, k, batch)


def _attention(query: Tensor, key: Tensor, value: Tensor) -> Shape:
    batch, m, n = prod(query.shape[:-2]), query.shape[-2], key.shape[-2]
    flops = 2 * batch * m * n * (query.shape[-1] + value.shape[-1])
    return Shape("attention", flops, m, n, query.shape[-1], batch)


def _convolution(x: Tensor, weight: Tensor, out: Tensor, transposed: bool) -> Shape:
    """As the product it is: a row for each place, a column for each channel out."""
    places, channels = (x, x.shape[1]) if transposed else (out, out.shape[1])
    per_place = prod(weight.shape[1:])
    rows = places.numel() // channels
    return Shape("convolution", 2 * rows * channels * per_place, rows, channels, per_place)


def _shape(name: str, args: tuple[Any, ...], out: Any) -> Shape:
    if name in PRODUCTS:
        return _product(*args[PRODUCTS[name] :][:2])
    if name.startswith(ATTENTION):
        return _attention(*args[:3])
    if name in CONVOLUTIONS:
        return _convolution(args[0], args[1], out, bool(args[6]))
    return Shape("memory", 0)


def _moved(x: Tensor) -> int:
    """The bytes of a tensor in memory: what is repeated by a stride of 0 lies there once."""
    return prod(size for size, stride in zip(x.shape, x.stride(), strict=True) if stride) * x.element_size()


class Tally:
    """What has run: operators and messages, each with how many of them."""

    def __init__(self) -> None:
        self.operators: Counter[Operator] = Counter()
        self.messages: Counter[Message] = Counter()

    def add(self, other: "Tally") -> None:
        """All of that has run too."""
        self.operators.update(other.operators)
        self.messages.update(other.messages)

    @property
    def launches(self) -> int:
        """Kernels."""
        return sum(self.operators.values())

    def listed(self) -> tuple[tuple[Operator, ...], tuple[Message, ...]]:
        """Each kind once, with its count."""
        operators = tuple(replace(one, count=count) for one, count in self.operators.items())
        return operators, tuple(replace(one, count=count) for one, count in self.messages.items())

    def operator(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
        """An operator of torch has run."""
        name, made = name_of(func), tensors(out)
        if is_view(func) or name in FREE or not made:
            return
        shape = _shape(name, args, out)
        seen = {id(x): x for x in tensors((args, kwargs, out))}
        dtype = str(made[0].dtype).removeprefix("torch.")
        size = sum(map(_moved, seen.values()))
        self.operators[Operator(shape.kind, dtype, shape.flops, size, 1, *shape[2:])] += 1

    def message(self, func: Any, args: tuple[Any, ...], axis: Callable[[tuple[int, ...]], str]) -> None:
        """A collective has begun."""
        name = name_of(func)
        if name not in COLLECTIVES:
            return
        group = group_of(args)
        ranks = tuple(dist.get_process_group_ranks(group))
        hidden = not is_waited_for_at_once(func, args)
        sent = _sent(COLLECTIVES[name], args, group)
        self.messages[Message(COLLECTIVES[name], axis(ranks), ranks, sent, hidden)] += 1


def _sent(collective: str, args: tuple[Any, ...], group: Any) -> int:
    """The bytes that this rank puts on the wire."""
    size, rank = group.size(), group.rank()

    def total(x: Any) -> int:
        return sum(one.numel() * one.element_size() for one in tensors(x))

    match collective:
        case "all_to_all":
            x, splits = args[1], args[4]
            kept = splits[rank] if splits else len(x) // size
            return total(x) - kept * x[:1].numel() * x.element_size()
        case "all_gather":
            return total(args[1]) * (size - 1)
        case "reduce_scatter":
            return total(args[0]) * (size - 1)
        case "all_reduce":
            return 2 * total(args[0]) * (size - 1) // size
        case "broadcast" | "send":
            return total(args[0])
        case _:
            return 0


def axis_namer(layout: ParallelismConfig) -> Callable[[tuple[int, ...]], str]:
    """What says along which axes of a layout some ranks lie, as "ring.ulysses"; "" for a part of an axis."""
    on = [axis for axis in AXES if layout.sizes[axis] > 1]
    found: dict[tuple[int, ...], str] = {}
    for choice in range(1, 1 << len(on)):
        axes = [axis for i, axis in enumerate(on) if choice >> i & 1]
        for row in rank_groups(layout, *axes):
            found.setdefault(tuple(row), ".".join(axes))
    return lambda ranks: found.get(ranks, "")
