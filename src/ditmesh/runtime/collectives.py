"""The few collectives we use, on tensors whose shard sizes every rank already knows.

Each takes the one-dimensional mesh of the ranks that take part. They are for inference: no gradient passes through.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ditmesh.runtime.mesh import Axis

# torch 2.13 renamed it.
_all_gather_single: Callable[..., Any] = vars(dist).get("all_gather_single") or vars(dist)["all_gather_into_tensor"]


Function = TypeVar("Function", bound=Callable[..., Any])


def never_compiled(function: Function) -> Function:
    """Keep a function out of compiled graphs: one that waits for a transfer, or remembers what a graph would guard."""
    wrapped: Any = torch.compiler.disable(function)  # pyright: ignore[reportUnknownMemberType]
    return wrapped


def shard_sizes(length: int, degree: int) -> list[int]:
    """How long each rank's shard of a dimension is: as even as can be, the longer ones first (``tensor_split``)."""
    base, longer = divmod(length, degree)
    return [base + 1] * longer + [base] * (degree - longer)


def shard(x: Tensor, dim: int, mesh: Axis) -> Tensor:
    """This rank's shard of a dimension, as a view."""
    return x.tensor_split(mesh.size(), dim)[mesh.get_local_rank()]


def _reachable(x: Tensor, mesh: Axis) -> Tensor:
    """The tensor where the group's tensors are, which offloaded weights are not."""
    x = x.detach()
    return x if x.device.type == mesh.device_type else x.to(mesh.device_type)


def all_reduce(x: Tensor, mesh: Axis) -> Tensor:
    """The sum over the ranks, in place unless the tensor is offloaded."""
    summed = _reachable(x, mesh)
    dist.all_reduce(summed, group=mesh.get_group())  # pyright: ignore[reportUnknownMemberType]
    return summed.to(x.device)


def all_reduce_max(x: Tensor, mesh: Axis) -> Tensor:
    """The largest over the ranks, in place."""
    dist.all_reduce(x, dist.ReduceOp.MAX, group=mesh.get_group())  # pyright: ignore[reportUnknownMemberType]
    return x


def all_to_all(x: Tensor, send: Sequence[int], receive: Sequence[int], mesh: Axis) -> Tensor:
    """Send ``send[i]`` elements of a flat tensor to rank i and return those received, ``receive[i]`` from rank i."""
    received = x.new_empty(sum(receive))
    group = mesh.get_group()
    dist.all_to_all_single(received, x.detach(), list(receive), list(send), group)  # pyright: ignore[reportUnknownMemberType]
    return received


def all_gather(x: Tensor, dim: int, sizes: Sequence[int], mesh: Axis) -> Tensor:
    """Every rank's shard, ``sizes[i]`` long on rank i, put together along ``dim``."""
    rows = _reachable(x, mesh).movedim(dim, 0).contiguous()
    if len(set(sizes)) == 1:
        gathered = rows.new_empty((sum(sizes), *rows.shape[1:]))
        _all_gather_single(gathered, rows, group=mesh.get_group())
    else:
        # gloo gathers equal shards only; an all-to-all that sends everyone the same moves the same bytes, unpadded.
        row = rows[:1].numel() if len(rows) else rows.new_empty((1, *rows.shape[1:])).numel()
        flat = rows.flatten().repeat(len(sizes))
        gathered = all_to_all(flat, [rows.numel()] * len(sizes), [size * row for size in sizes], mesh)
        gathered = gathered.view(sum(sizes), *rows.shape[1:])
    return gathered.movedim(0, dim).to(x.device)


def start_all_gather(into: Tensor, x: Tensor, mesh: Axis, is_async: bool) -> Any:
    """Put every rank's flat tensor into one; return what to wait for, if it is asynchronous."""
    return _all_gather_single(into, x, group=mesh.get_group(), async_op=is_async)


class Rotation:
    """Pass a tensor to the next rank of a ring and take the previous one's, while something else computes.

    The tensor sent and the handles are held until ``wait``: a dropped handle is a lost message on gloo.
    """

    def __init__(self, sent: Tensor, received: Tensor, mesh: Axis):
        group, rank, degree = mesh.get_group(), mesh.get_local_rank(), mesh.size()
        sent, transfers = sent.detach(), list[dist.P2POp]()
        if sent.numel():
            transfers.append(dist.P2POp(dist.isend, sent, group=group, group_peer=(rank + 1) % degree))
        if received.numel():
            transfers.append(dist.P2POp(dist.irecv, received, group=group, group_peer=(rank - 1) % degree))
        self._held = sent, received
        self._works = dist.batch_isend_irecv(transfers) if transfers else []

    def wait(self) -> Tensor:
        for work in self._works:
            work.wait()
        return self._held[1]


class Transfer:
    """A tensor on its way to a rank of a group, or from it; tensor and handle are held until ``wait``."""

    def __init__(self, x: Tensor, axis: Axis, to: int | None = None, source: int | None = None):
        self._held, group = x, axis.get_group()
        self._work = (
            dist.irecv(x, group=group, group_src=source) if to is None else dist.isend(x, group=group, group_dst=to)
        )

    def wait(self) -> Tensor:
        if self._work is not None:
            self._work.wait()
        return self._held


def broadcast(x: Tensor, source: int, mesh: Axis) -> Tensor:
    """The tensor of one rank on all of them, in place unless it is offloaded."""
    sent = _reachable(x, mesh)
    dist.broadcast(sent, group=mesh.get_group(), group_src=source)
    return sent.to(x.device)
