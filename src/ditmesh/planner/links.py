"""Measure the messages between the ranks of this job, in groups of every size, all groups at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, log2
from statistics import median

import torch
from torch import Tensor

from ditmesh.config import ParallelismConfig
from ditmesh.planner.hardware import Link
from ditmesh.runtime.collectives import Rotation, all_gather, all_reduce, all_to_all, shard_sizes
from ditmesh.runtime.mesh import Axis, start_mesh

SMALL, LARGE = 2**12, {"cpu": 2**22, "cuda": 2**26}  # bytes
PAIR = 0.8  # of what a rank sends to all others together: less than that between two devices is noted

Seconds = Callable[[Callable[[], object]], float]


def exchange(x: Tensor, axis: Axis) -> None:
    parts = shard_sizes(len(x), axis.size())
    mine = [parts[axis.get_local_rank()]] * axis.size()
    all_to_all(x[: sum(mine)], mine, parts, axis)


# How a message is sent, and which part of a tensor's bytes a rank of n then puts on the wire.
MESSAGES: dict[str, tuple[Callable[[Tensor, Axis], object], Callable[[int], float]]] = {
    "all-to-all": (exchange, lambda n: (n - 1) / n),
    "all-reduce": (all_reduce, lambda n: 2 * (n - 1) / n),
    "all-gather": (lambda x, axis: all_gather(x, 0, [len(x)] * axis.size(), axis), lambda n: n - 1),
    "pair": (lambda x, axis: Rotation(x, torch.empty_like(x), axis).wait(), lambda n: 1),
}


@dataclass(frozen=True)
class Measured:
    """One kind of message in groups of ``ranks``, made of groups of ``inner``: a pair is of two of those.

    Attributes:
        latency: seconds of a small one.
        rate: bytes/s that a rank sends, of a large one.
    """

    message: str
    ranks: int
    inner: int
    latency: float
    rate: float

    @property
    def leaving(self) -> float:
        """Bytes/s that leave an inner group, by rank of it: its way out can do no less."""
        if self.message == "all-to-all":
            return self.rate * (self.ranks - self.inner) / (self.ranks - 1)
        return self.rate if self.message == "pair" else self.rate / self.inner


def levels(world: int) -> list[int]:
    """The sizes of groups, each made of some of the one before: 8 -> 2 4 8, 6 -> 2 6."""
    found = [2**power for power in range(1, world.bit_length()) if world % 2**power == 0]
    return found if world == 1 or world in found else [*found, world]


def measure_links(seconds: Seconds, world: int, device: torch.device) -> list[Measured]:
    """Every kind of message at every level; all ranks call this."""
    found: list[Measured] = []
    for inner, ranks in pairwise([1, *levels(world)]):
        mesh = start_mesh(ParallelismConfig(dp_size=world // ranks, ring_size=ranks // inner, ulysses_size=inner))
        group = mesh.along("ring", "ulysses")
        for name, (message, part) in MESSAGES.items():
            axis = mesh["ring"] if name == "pair" else group
            small, large = (torch.zeros(size // 4, device=device) for size in (SMALL, LARGE[device.type]))
            latency, whole = (seconds(lambda x=x, axis=axis, send=message: send(x, axis)) for x in (small, large))
            sent = part(axis.size()) * (LARGE[device.type] - SMALL)
            found.append(Measured(name, ranks, inner, latency, sent / max(whole - latency, 1e-9)))
    return found


def links(measured: Sequence[Measured]) -> tuple[Link, ...]:
    """What joins the ranks, from the inside out; of several measurements of a way the best counts."""
    found: list[Link] = []
    for ranks in dict.fromkeys(one.ranks for one in measured):
        here = [one for one in measured if one.ranks == ranks]
        bandwidth = max(one.leaving for one in here)
        [pair] = [one.rate for one in here if one.message == "pair"]
        latency = median(one.latency for one in here) / ceil(log2(ranks))
        found.append(Link(ranks, bandwidth, latency, pair if pair < PAIR * bandwidth else 0.0))
    return tuple(found)
