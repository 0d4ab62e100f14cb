"""Turn a layout into the groups of ranks along its axes: dp, cfg, pp, ring, ulysses and tp, outer to inner."""

import gc
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from ditmesh.config import AXES, ParallelismConfig, rank_groups, sharing

Rows = tuple[tuple[int, ...], ...]  # the ranks of each group


@dataclass(frozen=True)
class Mesh:
    """All ranks of a job along the axes of a layout; ``mesh["tp"]`` are those of this rank's group of that axis.

    Groups of the same ranks are one: a communicator costs threads on a CPU and memory on a GPU. For that reason this is
    no DeviceMesh of many dimensions, which makes one for each axis, however many ranks it has.
    """

    layout: ParallelismConfig
    device_type: str

    def __getitem__(self, axis: str) -> DeviceMesh:
        return self.along(axis)

    def along(self, *axes: str) -> DeviceMesh:
        """The ranks that differ from this one along these axes alone, as one axis.

        The first time, every rank has to ask for them, and for others in the same order.
        """
        return _axis(self.rows(*axes), self.device_type, dist.group.WORLD)

    def rows(self, *axes: str) -> Rows:
        """The ranks of every group along these axes."""
        return tuple(map(tuple, rank_groups(self.layout, *axes)))


@cache
def _axis(rows: Rows, device_type: str, world: dist.ProcessGroup) -> DeviceMesh:
    if len(rows) == 1:
        return DeviceMesh(device_type, list(rows[0]))
    return DeviceMesh.from_group(_group(rows, "all", world), device_type)


@cache
def _group(rows: Rows, purpose: str, world: dist.ProcessGroup) -> Any:
    """The group of the row that this rank is in, if it is in one; every rank makes every group."""
    groups = [dist.new_group(list(row)) for row in rows]
    return next((group for row, group in zip(rows, groups, strict=True) if dist.get_rank() in row), None)


def build_mesh(parallelism: ParallelismConfig, device_type: str) -> Mesh:
    """The mesh of a layout over all ranks, which must be as many as the layout needs."""
    assert dist.get_world_size() == parallelism.world_size, "check_layout compares them before"
    mesh = Mesh(parallelism, device_type)
    mesh.along(*AXES)  # the world's own group, with which torch sets this rank's device if nobody has
    for axis in AXES:
        mesh.along(axis)
    return mesh


def replica_mesh(mesh: Mesh) -> DeviceMesh:
    """All ranks that make one picture together, as one axis."""
    return mesh.along(*sharing("picture"))


def forward_mesh(mesh: Mesh) -> DeviceMesh:
    """The ranks that share one forward of the transformer, as one axis."""
    return mesh.along(*sharing("forward"))


def sequence_mesh(mesh: Mesh) -> DeviceMesh:
    """The ranks that share a sequence, ring outside and Ulysses inside, as one axis."""
    return mesh.along(*sharing("sequence"))


def lanes(mesh: Mesh) -> tuple[Any, Any]:
    """Two groups of the ranks along ``pp``, for what a stage takes and what it gives: neither waits for the other."""
    rows = mesh.rows("pp")
    return _group(rows, "even lane", dist.group.WORLD), _group(rows, "odd lane", dist.group.WORLD)


def shortcut(mesh: Mesh, source: int, target: int) -> Any:
    """A group of two stages, for what one gives the other past those between them; every rank asks for it."""
    return _group(tuple((row[source], row[target]) for row in mesh.rows("pp")), "shortcut", dist.group.WORLD)


def leave_ranks() -> None:
    """End the process group, if there is one; pipelines that were spread over its ranks must not be in use any more.

    A group's threads end when nothing refers to it. One that is alive when the interpreter ends may have to free a
    tensor then, and a thread that asks for the interpreter's lock so late ends the process with SIGABRT.
    """
    if not dist.is_initialized():
        return
    dist.destroy_process_group()
    _axis.cache_clear()
    _group.cache_clear()
    gc.collect()
