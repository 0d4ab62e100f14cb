"""Which part of a parameter each rank keeps, and linears that are left with theirs."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from ditmesh.collectives import all_gather, all_reduce, shard_sizes
from ditmesh.modules import parameter


@dataclass(frozen=True)
class Shard:
    """Which ranges of one dimension of a parameter each rank keeps; two ranks may keep the same one."""

    dim: int
    kept: tuple[tuple[range, ...], ...]  # by rank
    mesh: DeviceMesh

    @classmethod
    def even(cls, dim: int, parts: tuple[int, ...], mesh: DeviceMesh) -> Self:
        """Every packed part of the dimension over the ranks, as evenly as can be."""
        starts = accumulate(parts, initial=0)
        ranges = [
            [range(start + cut.start, start + cut.stop) for cut in even_ranges(part, mesh.size())]
            for start, part in zip(starts, parts, strict=False)
        ]
        return cls(dim, tuple(zip(*ranges, strict=True)), mesh)

    @property
    def length(self) -> int:
        """Of the whole dimension."""
        return max(piece.stop for piece in chain(*self.kept))

    def cut(self, x: Tensor) -> Tensor:
        """This rank's shard, in memory of its own so that the whole can be freed."""
        mine = self.kept[self.mesh.get_local_rank()]
        return torch.cat([x.narrow(self.dim, kept.start, len(kept)) for kept in mine], self.dim)

    def restore(self, x: Tensor) -> Tensor:
        """The whole parameter, from every rank's shard."""
        sizes = [sum(map(len, kept)) for kept in self.kept]
        kept = list(chain(*self.kept))
        pieces = all_gather(x, self.dim, sizes, self.mesh).split([len(piece) for piece in kept], self.dim)
        shape = list(x.shape)
        shape[self.dim] = self.length
        whole = x.new_empty(shape)
        for where, piece in zip(kept, pieces, strict=True):
            whole.narrow(self.dim, where.start, len(where)).copy_(piece)
        return whole


def even_ranges(length: int, degree: int) -> list[range]:
    """What each rank keeps of a dimension that is cut as evenly as can be."""
    ends = list(accumulate(shard_sizes(length, degree)))
    return [range(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def shard_columns(linear: nn.Linear, shard: Shard, gather: bool, undo: ExitStack) -> None:
    """Keep this rank's outputs; ``gather`` puts those of all ranks together after each call."""
    cut_columns(linear, shard, undo)
    if gather:
        undo.callback(linear.register_forward_hook(gather_outputs(shard)).remove)


def shard_rows(linear: nn.Linear, shard: Shard, undo: ExitStack) -> None:
    """Keep what reads this rank's inputs, and sum over the ranks after each call."""
    cut_rows(linear, shard, undo)
    undo.callback(linear.register_forward_hook(sum_outputs(shard)).remove)


def gather_outputs(shard: Shard) -> Callable[..., Tensor]:
    """A hook that puts the outputs of all ranks together."""
    sizes = shard_sizes(shard.length, shard.mesh.size())

    def gather_output(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return all_gather(output, -1, sizes, shard.mesh).contiguous()  # as a linear's output is

    return gather_output


def sum_outputs(shard: Shard) -> Callable[..., Tensor]:
    """A hook that adds the outputs of all ranks up."""

    def reduce_output(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return all_reduce(output, shard.mesh)

    return reduce_output


def cut_columns(linear: nn.Linear, shard: Shard, undo: ExitStack) -> None:
    """Keep this rank's rows of the weight, which make its outputs."""
    _set_weights(linear, shard.cut(linear.weight), None if linear.bias is None else shard.cut(linear.bias))

    @undo.callback
    def restore() -> None:
        _set_weights(linear, shard.restore(linear.weight), None if linear.bias is None else shard.restore(linear.bias))


def cut_rows(linear: nn.Linear, shard: Shard, undo: ExitStack) -> None:
    """Keep this rank's columns of the weight, which read its inputs."""
    bias = linear.bias
    if bias is not None and shard.mesh.get_local_rank() > 0:
        bias = torch.zeros_like(bias)  # the sum over the ranks is to have the bias once
    _set_weights(linear, shard.cut(linear.weight), bias)

    @undo.callback
    def restore() -> None:
        bias = None if linear.bias is None else all_reduce(linear.bias.clone(), shard.mesh)
        _set_weights(linear, shard.restore(linear.weight), bias)


def _set_weights(linear: nn.Linear, weight: Tensor, bias: Tensor | None) -> None:
    linear.weight = parameter(weight, linear.weight)
    if bias is not None:
        linear.bias = parameter(bias, linear.bias)
    linear.out_features, linear.in_features = weight.shape
