"""Turn a layout into the groups of ranks along its axes: dp, cfg, pp, ring, ulysses and tp, outer to inner."""

import gc
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from ditmesh.config import AXES, ParallelismConfig


@dataclass(frozen=True)
class Mesh:
    """All ranks of a job along the axes of a layout; ``mesh["tp"]`` are those of this rank's group of that axis.

    Groups of the same ranks are one: a communicator costs threads on a CPU and memory on a GPU. For that reason this is
    no DeviceMesh of many dimensions, which makes one for each axis, however many ranks it has.
    """

    sizes: tuple[int, ...]
    device_type: str

    def __getitem__(self, axis: str) -> DeviceMesh:
        return self.along(axis)

    def along(self, *axes: str) -> DeviceMesh:
        """The ranks that differ from this one along these axes alone, as one axis.

        The first time, every rank has to ask for them, and for others in the same order.
        """
        return _groups(self.rows(*axes), self.device_type, dist.group.WORLD)

    def rows(self, *axes: str) -> tuple[tuple[int, ...], ...]:
        """The ranks of every group along these axes."""
        inner = [AXES.index(axis) for axis in axes]
        outer = [i for i in range(len(AXES)) if i not in inner]
        ranks = torch.arange(dist.get_world_size()).reshape(self.sizes)
        return tuple(map(tuple, ranks.permute(outer + inner).flatten(len(outer)).flatten(0, -2).tolist()))


@cache
def _groups(rows: tuple[tuple[int, ...], ...], device_type: str, world: dist.ProcessGroup) -> DeviceMesh:
    # Every rank makes every group.
    groups: list[Any] = [world] if len(rows) == 1 else [dist.new_group(list(row)) for row in rows]
    own = next(group for row, group in zip(rows, groups, strict=True) if dist.get_rank() in row)
    return DeviceMesh.from_group(own, device_type)


def build_mesh(parallelism: ParallelismConfig, device_type: str) -> Mesh:
    """The mesh of a layout over all ranks, which must be as many as the layout needs."""
    assert dist.get_world_size() == parallelism.world_size, "check_layout compares them before"
    mesh = Mesh(tuple(parallelism.sizes.values()), device_type)
    for axis in AXES:
        mesh.along(axis)
    return mesh


def replica_mesh(mesh: Mesh) -> DeviceMesh:
    """All ranks that make one picture together, as one axis."""
    return mesh.along("cfg", "pp", "ring", "ulysses", "tp")


def forward_mesh(mesh: Mesh) -> DeviceMesh:
    """The ranks that share one forward of the transformer, as one axis."""
    return mesh.along("pp", "ring", "ulysses", "tp")


def sequence_mesh(mesh: Mesh) -> DeviceMesh:
    """The ranks that share a sequence, ring outside and Ulysses inside, as one axis."""
    return mesh.along("ring", "ulysses")


def lanes(mesh: Mesh) -> tuple[Any, Any]:
    """Two groups of the ranks along ``pp``, for what a stage takes and what it gives: neither waits for the other."""
    return _lanes(mesh.rows("pp"), dist.group.WORLD)


@cache
def _lanes(rows: tuple[tuple[int, ...], ...], world: dist.ProcessGroup) -> tuple[Any, Any]:
    groups = [(row, (dist.new_group(list(row)), dist.new_group(list(row)))) for row in rows]
    return next(pair for row, pair in groups if dist.get_rank() in row)


def leave_ranks() -> None:
    """End the process group, if there is one; pipelines that were spread over its ranks must not be in use any more.

    A group's threads end when nothing refers to it. One that is alive when the interpreter ends may have to free a
    tensor then, and a thread that asks for the interpreter's lock so late ends the process with SIGABRT.
    """
    if not dist.is_initialized():
        return
    dist.destroy_process_group()
    _groups.cache_clear()
    _lanes.cache_clear()
    gc.collect()
