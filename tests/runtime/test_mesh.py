"""Meshes, and the end of the process group they are made of."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import ditmesh
from ditmesh import ParallelismConfig
from ditmesh.api import leave_ranks
from ditmesh.config import AXES
from ditmesh.runtime.mesh import build_mesh, forward_mesh, replica_mesh, sequence_mesh
from tests.ranks import Ranks
from tests.transformers import SHAPES, build, forward


def threads_of_gloo() -> list[str]:
    names = [task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm")]
    return [name for name in names if "gloo" in name]


def leave(sizes: dict[str, int]) -> tuple[list[str], list[str]]:
    """The threads that served a model's layout, and those that outlive it."""
    model, inputs = build("flux", SHAPES["odd"], torch.float32)
    ditmesh.enable_cache(model, parallelism_config=ParallelismConfig(**sizes))
    forward(model, inputs)
    before = threads_of_gloo()
    del model
    leave_ranks()
    leave_ranks()  # there are none to leave any more
    return before, threads_of_gloo()


@pytest.mark.parametrize("sizes", [{"ulysses_size": 2}, {"pp_size": 2, "num_pipeline_patch": 1}])
def test_no_thread_of_gloo_outlives_the_ranks(ranks: Ranks, sizes: dict[str, int]) -> None:
    outcomes = ranks.run(leave, 2, sizes)
    ranks.rest()  # they have no process group
    for before, after in outcomes:
        assert before
        assert not after


def groups_of(layout: str) -> dict[str, list[int]]:
    mesh = build_mesh(ParallelismConfig.parse(layout), "cpu")
    along = {axis: mesh[axis] for axis in AXES}
    along |= {"sequence": sequence_mesh(mesh), "forward": forward_mesh(mesh), "replica": replica_mesh(mesh)}
    distinct = len({id(one.get_group()) for one in along.values()})
    return {name: dist.get_process_group_ranks(one.get_group()) for name, one in along.items()} | {"": [distinct]}


@pytest.mark.parametrize(
    ("layout", "rank", "want", "distinct"),
    [
        # tp is innermost and dp outermost; groups of the same ranks are one, among them those of a rank alone.
        ("dp2.ulysses2.tp2", 5, {"tp": [4, 5], "ulysses": [5, 7], "dp": [1, 5], "forward": [4, 5, 6, 7]}, 5),
        ("ring2.ulysses2.tp2", 3, {"tp": [2, 3], "ulysses": [1, 3], "ring": [3, 7], "sequence": [1, 3, 5, 7]}, 6),
        ("ulysses8", 6, {"ulysses": list(range(8)), "replica": list(range(8)), "ring": [6]}, 2),
        ("cfg2.pp2.tp2", 6, {"cfg": [2, 6], "pp": [4, 6], "forward": [4, 5, 6, 7], "replica": list(range(8))}, 6),
    ],
)
def test_groups_are_of_the_ranks_along_their_axes(
    ranks: Ranks, layout: str, rank: int, want: dict[str, list[int]], distinct: int
) -> None:
    outcomes = ranks.run(groups_of, 8, layout)
    assert {name: outcomes[rank][name] for name in want} == want
    assert {tuple(found[""]) for found in outcomes} == {(distinct,)}
