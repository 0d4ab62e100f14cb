"""What a rank holds and sends, for tiny transformers: as it is, and as a rank alone says without their weights."""

from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import nn

import ditmesh
from ditmesh import ParallelismConfig
from ditmesh.planner.blocks import Repeats
from ditmesh.planner.counting import axis_namer
from ditmesh.planner.memory import Memory
from ditmesh.upstream.alone import alone
from ditmesh.upstream.hollow import Watch, hollow_out
from ditmesh.upstream.modules import expand
from ditmesh.upstream.operators import COLLECTIVES
from ditmesh.upstream.unread import nbytes
from tests.counting import CommunicationCounter
from tests.parallel.test_guidance_sheets import SPREAD, doubled
from tests.transformers import SHAPES, Inputs, build, forward

SHAPE = (2, (4, 6), 8, False)
Answer = tuple[int, dict[str, int]]  # bytes of weights, bytes sent by collective


def parallelism(layout: str) -> ParallelismConfig:
    """A layout, of which the stages run every step whole."""
    config = ParallelismConfig.parse(layout)
    return replace(config, num_pipeline_patch=1) if config.pp_size > 1 else config


def made(name: str, layout: str) -> tuple[nn.Module, Inputs]:
    """A transformer, and inputs that have two branches of guidance where ranks share them."""
    return doubled(name, SHAPES[dict(SPREAD)[name]]) if "cfg" in layout else build(name, SHAPE, torch.float32)


def held(model: nn.Module) -> int:
    return sum(nbytes(x) for x in {id(x): x for x in (*model.parameters(), *model.buffers())}.values())


@torch.no_grad()
def in_truth(names: list[str], layout: str) -> dict[str, Answer]:
    """On a rank of so many."""
    return {name: _in_truth(name, layout) for name in names}


def _in_truth(name: str, layout: str) -> Answer:
    model, inputs = made(name, layout)
    ditmesh.enable_cache(model, parallelism_config=parallelism(layout))
    with CommunicationCounter() as counter:
        forward(model, inputs)
    sent: Counter[str] = Counter()
    for operator, size in counter.bytes.items():
        sent[COLLECTIVES[operator]] += size
    return held(model), {collective: size for collective, size in sent.items() if size}


@torch.no_grad()
def alone_on(name: str, layout: str, rank: int, blocks: tuple[str, ...] = ()) -> Answer:
    """On a rank alone; of lists of blocks that are named, those that are alike run for each other."""
    config = parallelism(layout)
    model, inputs = made(name, layout)
    hollow_out(model, lambda _, x: x.dtype)
    repeats, axis = Repeats(Memory()), axis_namer(config)

    def look(func: Any, args: Any, kwargs: Any, out: Any) -> None:
        if func.namespace == "c10d":
            repeats.tally.message(func, args, axis)

    for path in blocks:
        repeats.stand_in([block for _, block in expand(model, f"{path}.*")], ExitStack())
    with alone(rank, config.world_size):
        ditmesh.enable_cache(model, parallelism_config=config)
        with Watch(look):
            forward(model, inputs)
        found: Counter[str] = Counter()
        for one, count in repeats.tally.messages.items():
            found[one.collective] += one.bytes * count
        return held(model), {collective: size for collective, size in found.items() if size}
