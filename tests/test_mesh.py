"""Meshes, and the end of the process group they are made of."""

from pathlib import Path

import pytest
import torch

import ditmesh
from ditmesh import ParallelismConfig
from ditmesh.api import leave_ranks
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
