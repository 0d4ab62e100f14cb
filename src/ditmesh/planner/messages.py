"""How long a collective takes on a machine whose links are shared: every group of its axis sends at the same time."""

from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from math import ceil, log2

from ditmesh.planner.hardware import Hardware, Link
from ditmesh.planner.workload import Message

Flow = tuple[int, int]  # from a rank, to a rank


def seconds_of(message: Message, device: Hardware, world: int) -> float:
    """The seconds of one of these collectives: its latency, and its bytes over the link that is the last to be done.

    Args:
        world: the number of ranks; those of other groups along the same axis send what these do.
    """
    ranks = message.ranks
    if len(ranks) < 2 or not message.bytes:
        return 0.0
    level = next((link for link in device.links if _apart(ranks, link.ranks) == 1), device.links[-1])
    slowest = _seconds_per_byte(message.collective, ranks, world, device.links)
    return ceil(log2(len(ranks))) * level.latency + message.bytes * slowest / device.efficiency["link"]


def _apart(ranks: tuple[int, ...], size: int) -> int:
    """Over how many groups of neighbours, each of this size, the ranks are spread."""
    return len({rank // size for rank in ranks})


def groups_like(ranks: tuple[int, ...], world: int) -> list[tuple[int, ...]]:
    """All groups of the world's ranks along the same axis as this one.

    (0, 2) of 8 -> (0, 2) (1, 3) (4, 6) (5, 7)
    """
    step, count = ranks[1] - ranks[0], len(ranks)
    if step < 1 or ranks != tuple(range(ranks[0], ranks[0] + step * count, step)):
        return [ranks]
    first = [rank for rank in range(world) if rank // step % count == 0 and rank + step * (count - 1) < world]
    groups = [tuple(range(rank, rank + step * count, step)) for rank in first]
    return groups if ranks in groups else [ranks]


def flows(collective: str, ranks: tuple[int, ...]) -> Iterator[tuple[Flow, float]]:
    """Who sends to whom, and which part of what a rank sends: an all-to-all directly, all others in a ring."""
    if collective == "all_to_all":
        yield from (((a, b), 1 / (len(ranks) - 1)) for a in ranks for b in ranks if a != b)
    else:
        yield from (((a, b), 1.0) for a, b in zip(ranks, (*ranks[1:], ranks[0]), strict=True))


@cache
def _seconds_per_byte(collective: str, ranks: tuple[int, ...], world: int, links: tuple[Link, ...]) -> float:
    """Of what each rank sends, over the busiest way out of any group of neighbours.

    Devices 0..7, two a switch; an all-to-all of 0 2 4 6 beside one of 1 3 5 7: out of a switch go the bytes of both.
    """
    sent = defaultdict[Flow, float](float)
    for group in groups_like(ranks, world):
        for flow, part in flows(collective, group):
            sent[flow] += part
    slowest, inner = 0.0, 1
    for link in links:
        out = defaultdict[int, float](float)
        for (a, b), part in sent.items():
            if a // inner != b // inner:
                out[a // inner] += part
                if link.pair and a // link.ranks == b // link.ranks:
                    slowest = max(slowest, part / link.pair)
        slowest = max(slowest, max(out.values(), default=0.0) / (link.bandwidth * inner))
        inner = link.ranks
    return slowest
