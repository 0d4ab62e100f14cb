"""Which ranks of a layout work together, in numbers and in words."""

from itertools import product

from ditmesh.config.axes import AXES
from ditmesh.config.parallelism import ParallelismConfig


def rank_groups(layout: ParallelismConfig, *axes: str) -> list[list[int]]:
    """The groups of ranks that differ along these axes only, as the mesh has them: ``tp`` runs fastest, ``dp`` slowest.

    >>> rank_groups(ParallelismConfig(ring_size=2, tp_size=2), "ring")
    [[0, 2], [1, 3]]
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for rank, place in enumerate(product(*(range(size) for size in layout.sizes.values()))):
        others = tuple(at for axis, at in zip(AXES, place, strict=True) if axis not in axes)
        groups.setdefault(others, []).append(rank)
    return list(groups.values())


def replicas(layout: ParallelismConfig) -> list[range]:
    """The ranks of each replica, which draw the same pictures together."""
    size = layout.world_size // layout.dp_size
    return [range(first, first + size) for first in range(0, layout.world_size, size)]


def describe_groups(layout: ParallelismConfig) -> list[str]:
    """A line for the replicas, and one for each axis inside them that more than one rank shares."""
    lines = ["; ".join(f"replica {i}: {_name(list(ranks))}" for i, ranks in enumerate(replicas(layout)))]
    for name, axis in AXES.items():
        if axis.share and layout.sizes[name] > 1:
            shown = "; ".join(_name(group) for group in rank_groups(layout, name))
            lines.append(f"{axis.what} ({name}{layout.sizes[name]}): {shown}")
    return lines


def _name(ranks: list[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    if ranks == list(range(ranks[0], ranks[-1] + 1)):
        return f"ranks {ranks[0]}-{ranks[-1]}"
    return f"ranks {', '.join(map(str, ranks))}"
