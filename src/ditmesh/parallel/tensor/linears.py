"""Linears that are left with this rank's shard of their weights."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ditmesh.runtime.collectives import all_gather, all_reduce, shard_sizes
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
    keep_share(linear, undo, weight=shard.restore, bias=shard.restore)
    _set_weights(linear, shard.cut(linear.weight), None if linear.bias is None else shard.cut(linear.bias))

    @undo.callback
    def restore() -> None:
        _set_weights(linear, shard.restore(linear.weight), None if linear.bias is None else shard.restore(linear.bias))


def cut_rows(linear: nn.Linear, shard: Shard, undo: ExitStack) -> None:
    """Keep this rank's columns of the weight, which read its inputs."""
    bias = linear.bias
    if bias is not None and shard.mesh.get_local_rank() > 0:
        bias = torch.zeros_like(bias)  # the sum over the ranks is to have the bias once
    keep_share(linear, undo, weight=shard.restore, bias=lambda x: all_reduce(x.clone(), shard.mesh))
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
