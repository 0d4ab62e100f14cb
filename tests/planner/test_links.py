"""What is measured of messages becomes links by which the planner prices those messages as they were measured."""

from dataclasses import replace
from itertools import pairwise

import pytest

from ditmesh.planner.hardware import Hardware, Link, hardware
from ditmesh.planner.links import MESSAGES, Measured, levels, links
from ditmesh.planner.messages import seconds_of
from ditmesh.planner.workload import Message

WORLD, LARGE = 8, 2**28
KINDS = {"all-to-all": "all_to_all", "all-reduce": "all_reduce", "all-gather": "all_gather", "pair": "send"}
MACHINES = {
    "switches": (Link(2, 24e9, 1e-5), Link(8, 12e9, 1.5e-5)),
    "one bus": (Link(8, 20e9, 2e-5),),
    "all to all": (Link(8, 300e9, 8e-6),),
}


def test_groups_are_made_of_smaller_ones() -> None:
    assert [levels(world) for world in (1, 2, 3, 6, 8, 12)] == [[], [2], [3], [2, 6], [2, 4, 8], [2, 4, 12]]


def machine(joined: tuple[Link, ...]) -> Hardware:
    device = hardware("CPU")
    return replace(device, links=joined, efficiency={**device.efficiency, "link": 1.0})


def measured(device: Hardware) -> list[Measured]:
    """What such a machine would be measured to do."""
    found = []
    for inner, ranks in pairwise([1, *levels(WORLD)]):
        for name in MESSAGES:
            group = tuple(range(0, ranks, inner) if name == "pair" else range(ranks))
            small, large = (
                seconds_of(Message(KINDS[name], "ulysses", group, size), device, WORLD) for size in (1, LARGE)
            )
            found.append(Measured(name, ranks, inner, small, LARGE / (large - small)))
    return found


@pytest.mark.parametrize("name", MACHINES)
def test_measured_messages_are_priced_as_they_were_measured(name: str) -> None:
    device = machine(MACHINES[name])
    again = replace(device, links=links(measured(device)))
    for collective in ("all_to_all", "all_reduce", "all_gather"):
        for ranks in levels(WORLD):
            message = Message(collective, "ulysses", tuple(range(ranks)), LARGE)
            assert seconds_of(message, again, WORLD) == pytest.approx(seconds_of(message, device, WORLD), rel=0.02)
