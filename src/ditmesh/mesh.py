"""Turn a layout into a DeviceMesh whose axes are dp, cfg, pp, ring, ulysses and tp, outer to inner."""

from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from ditmesh.config import AXES, ParallelismConfig


def build_mesh(parallelism: ParallelismConfig, device_type: str) -> DeviceMesh:
    """The mesh of a layout over all ranks, which must be as many as the layout needs.

    Pipelines of one layout share a mesh: the communicators of a group cost threads on CPU and memory on a GPU.
    """
    assert dist.get_world_size() == parallelism.world_size, "check_layout compares them before"
    return _mesh(tuple(parallelism.sizes.values()), device_type, dist.group.WORLD)


@cache
def _mesh(sizes: tuple[int, ...], device_type: str, world: dist.ProcessGroup) -> DeviceMesh:
    return DeviceMesh(device_type, torch.arange(world.size()).reshape(sizes), mesh_dim_names=AXES)


@cache
def replica_mesh(mesh: DeviceMesh) -> DeviceMesh:
    """All ranks that make one picture together, as one axis."""
    return mesh["cfg", "pp", "ring", "ulysses", "tp"]._flatten("replica")


@cache
def forward_mesh(mesh: DeviceMesh) -> DeviceMesh:
    """The ranks that share one forward of the transformer, as one axis."""
    return mesh["pp", "ring", "ulysses", "tp"]._flatten("forward")


@cache
def lanes(mesh: DeviceMesh) -> tuple[Any, Any]:
    """Two groups of the ranks along ``pp``, for what a stage takes and what it gives: neither waits for the other."""
    every = range(mesh["pp"].size())
    return _along_stages(mesh, every), _along_stages(mesh, every)


@cache
def shortcut(mesh: DeviceMesh, source: int, target: int) -> Any:
    """A group of two stages, for what one gives the other past those between them."""
    return _along_stages(mesh, (source, target))


def _along_stages(mesh: DeviceMesh, stages: Iterable[int]) -> Any:
    """A new group of some of the ranks along ``pp``; other ranks call this too."""
    names = mesh.mesh_dim_names
    assert names is not None
    rows = mesh.mesh.movedim(names.index("pp"), -1).flatten(0, -2).tolist()
    groups = [(row, dist.new_group([row[stage] for stage in stages])) for row in rows]  # every rank makes every group
    return next(group for row, group in groups if dist.get_rank() in row)


@cache
def sequence_mesh(mesh: DeviceMesh) -> DeviceMesh:
    """The ranks that share a sequence, ring outside and Ulysses inside, as one axis."""
    return mesh["ring", "ulysses"]._flatten("sequence")
