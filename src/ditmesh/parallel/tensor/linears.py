"""Linears that are left with this rank's shard of their weights."""

import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ditmesh.runtime.collectives import all_gather, all_reduce, all_reduce_max, shard_sizes
from ditmesh.runtime.mesh import Axis
from ditmesh.runtime.shards import Shard, fits
from ditmesh.upstream.modules import parameter
from ditmesh.upstream.quantized import Inputs, grain_of, inputs_of, narrowed, seat, settled, shape_of, widened
from ditmesh.upstream.saving import after, keep_share

KERNEL = 16  # of what the width has to be a multiple for kernels of eight bits


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


def check_cut(title: str, module: nn.Module, shard: Shard, instead: str) -> None:
    """Check that no rank's share of a linear begins or ends within what is quantized together.

    Raises:
        ValueError: one does.
    """
    grain = grain_of(settled(module).get_parameter("weight"), shard.dim)
    if not fits(shard.kept, grain):
        raise ValueError(
            f"{title}: {grain} of its {('outputs', 'inputs')[shard.dim]} are quantized together, and "
            f"{shard.mesh.size()} ranks would cut them apart; {instead}"
        )


def cut_columns(linear: nn.Linear, shard: Shard, undo: ExitStack) -> None:
    """Keep this rank's rows of the weight, which make its outputs."""
    whole = shard.restorer(settled(linear).weight)
    keep_share(linear, undo, weight=whole, bias=shard.restore)
    _set_weights(linear, shard.cut(linear.weight), None if linear.bias is None else shard.cut(linear.bias))

    @undo.callback
    def restore() -> None:
        bias = None if linear.bias is None else shard.restore(linear.bias)
        _set_weights(linear, whole(settled(linear).weight), bias)


def cut_rows(linear: nn.Linear, shard: Shard, undo: ExitStack) -> None:
    """Keep this rank's columns of the weight, which read its inputs."""
    bias = linear.bias
    if bias is not None and shard.mesh.get_local_rank() > 0:
        bias = torch.zeros_like(bias)  # the sum over the ranks is to have the bias once
    whole, share = shard.restorer(settled(linear).weight), shard.cut(linear.weight)
    if (inputs := inputs_of(linear)) is not None:
        share, narrow = _wide(linear, share, inputs, shard.mesh, undo)
        whole = after(narrow, whole)
    keep_share(linear, undo, weight=whole, bias=lambda x: all_reduce(x.clone(), shard.mesh))
    _set_weights(linear, share, bias)

    @undo.callback
    def restore() -> None:
        bias = None if linear.bias is None else all_reduce(linear.bias.clone(), shard.mesh)
        _set_weights(linear, whole(settled(linear).weight), bias)


def _wide(
    linear: nn.Linear, share: Tensor, inputs: Inputs, mesh: Axis, undo: ExitStack
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Let a linear that quantizes its inputs scale this rank's as it would scale all of them.

    It scales a token by its largest and its smallest input, which may be on another rank. They are added to the inputs,
    and columns of zeros to the weight that read them.

    Returns:
        the weight, and what takes the columns away again.
    """
    width = shape_of(share)[1]
    added = math.lcm(KERNEL, grain_of(share, 1))

    def add_extremes(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x = args[0]
        seen = x.masked_fill(x.half().abs() >= inputs.limit, 0) if inputs.limit else x
        ends = all_reduce_max(torch.stack([seen.amax(-1), -seen.amin(-1)], -1), mesh)
        extremes = torch.nn.functional.pad(ends * ends.new_tensor([1, -1]), (0, added - 2))
        return torch.cat([x, extremes], -1), *args[1:]

    undo.callback(linear.register_forward_pre_hook(add_extremes).remove)
    return widened(share, added), lambda weight: narrowed(weight, width)


def _set_weights(linear: nn.Linear, weight: Tensor, bias: Tensor | None) -> None:
    seat(linear, weight)
    if bias is not None:
        linear.bias = parameter(bias, linear.bias)
    linear.out_features, linear.in_features = shape_of(weight)


def keep_part(
    module: nn.Module, name: str, cut: Callable[[Tensor], Tensor], restore: Callable[[Tensor], Tensor], undo: ExitStack
) -> None:
    """Keep a part of a parameter; ``restore`` makes the whole of the parts of all ranks, for saving and in the end."""

    def swap(change: Callable[[Tensor], Tensor]) -> None:
        before = module.get_parameter(name)
        module.register_parameter(name, parameter(change(before), before))

    keep_share(module, undo, **{name: restore})
    swap(cut)
    undo.callback(swap, restore)
