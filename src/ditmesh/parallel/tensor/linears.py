"""Linears that are left with this rank's shard of their weights."""

from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from ditmesh.runtime.collectives import all_gather, all_reduce, shard_sizes
from ditmesh.runtime.mesh import Axis
from ditmesh.runtime.shards import Shard
from ditmesh.upstream.modules import parameter
from ditmesh.upstream.saving import keep_share


def shard_columns(linear: nn.Linear, shard: Shard, gather: bool, undo: ExitStack) -> None:
    """Keep this rank's outputs; ``gather`` puts those of all ranks together after each call."""
    cut_columns(linear, shard, undo)
    if gather:
        undo.callback(linear.register_forward_hook(gather_outputs(shard)).remove)


def shard_rows(linear: nn.Linear, shard: Shard, undo: ExitStack) -> None:
    """Keep what reads this rank's inputs, and sum over the ranks after each call."""
    cut_rows(linear, shard, undo)
    undo.callback(linear.register_forward_hook(sum_outputs(shard.mesh)).remove)


def gather_outputs(shard: Shard) -> Callable[..., Tensor]:
    """A hook that puts the outputs of all ranks together."""
    sizes = shard_sizes(shard.length, shard.mesh.size())

    def gather_output(module: nn.Module, args: tuple[object, ...], output: Tensor) -> Tensor:
        return all_gather(output, -1, sizes, shard.mesh).contiguous()  # as a linear's output is

    return gather_output


def sum_outputs(mesh: Axis) -> Callable[..., Tensor]:
    """A hook that adds the outputs of all ranks up."""

    def reduce_output(module: nn.Module, args: tuple[object, ...], output: Tensor) -> Tensor:
        return all_reduce(output, mesh)

    return reduce_output


def cut_columns(linear: nn.Linear, shard: Shard, undo: ExitStack) -> None:
    """Keep this rank's rows of the weight, which make its outputs."""
    for name in ("weight", "bias") if linear.bias is not None else ("weight",):
        keep_part(linear, name, shard.cut, shard.restore, undo)


def cut_rows(linear: nn.Linear, shard: Shard, undo: ExitStack) -> None:
    """Keep this rank's columns of the weight, which read its inputs."""
    mesh = shard.mesh
    keep_part(linear, "weight", shard.cut, shard.restore, undo)
    if linear.bias is not None:  # the sum over the ranks is to have it once
        once = torch.zeros_like if mesh.get_local_rank() > 0 else torch.clone
        keep_part(linear, "bias", once, lambda x: all_reduce(x.clone(), mesh), undo)


def keep_part(
    module: nn.Module, name: str, cut: Callable[[Tensor], Tensor], restore: Callable[[Tensor], Tensor], undo: ExitStack
) -> None:
    """Keep a part of a parameter; ``restore`` makes the whole of the parts of all ranks, for saving and in the end."""

    def swap(change: Callable[[Tensor], Tensor]) -> None:
        before = module.get_parameter(name)
        module.register_parameter(name, parameter(change(before), before))
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape

    keep_share(module, undo, **{name: restore})
    swap(cut)
    undo.callback(swap, restore)
