"""What is predicted of every sheet is what ranks hold and send, to the byte."""

import pytest

from ditmesh import ParallelismConfig
from tests.cases import CASES
from tests.parallel.test_guidance_sheets import SPREAD
from tests.planner.counted import alone_on, in_truth
from tests.ranks import Ranks

LAYOUTS = ["tp2", "ulysses2", "ring2", "pp2", "cfg2", "ulysses2.tp2"]
# What they do depends on numbers (which expert takes which token), or runs in a kernel that is compiled first.
NOT_KNOWN = {"hidream_image", "anyflow_far"}
NAMES = [name for name in CASES if name not in NOT_KNOWN]
HALVED = {name for name, _ in SPREAD}


def sheets(layout: str) -> list[str]:
    """A third of them: each sheet on two layouts, each layout with every third sheet."""
    at = LAYOUTS.index(layout)
    return [name for i, name in enumerate(NAMES) if i % 3 == at % 3 and (layout != "cfg2" or name in HALVED)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_and_messages_are_those_of_ranks(ranks: Ranks, layout: str) -> None:
    names, world = sheets(layout), ParallelismConfig.parse(layout).world_size
    real = ranks.run(in_truth, world, names, layout)
    for rank in (0, 1) if layout == "pp2" else (0,):
        assert {name: alone_on(name, layout, rank) for name in names} == real[rank]
