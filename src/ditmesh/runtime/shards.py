"""Which part of a parameter each rank keeps."""

from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Self

import torch
from torch import Tensor

from ditmesh.runtime.collectives import all_gather, shard_sizes
from ditmesh.runtime.mesh import Axis


@dataclass(frozen=True)
class Shard:
    """Which ranges of one dimension of a parameter each rank keeps; two ranks may keep the same one."""

    dim: int
    kept: tuple[tuple[range, ...], ...]  # by rank
    mesh: Axis

    @classmethod
    def even(cls, dim: int, parts: tuple[int, ...], mesh: Axis) -> Self:
        """Every packed part of the dimension over the ranks, as evenly as can be."""
        starts = accumulate(parts, initial=0)
        ranges = [
            [range(start + cut.start, start + cut.stop) for cut in even_ranges(part, mesh.size())]
            for start, part in zip(starts, parts, strict=False)
        ]
        return cls(dim, tuple(zip(*ranges, strict=True)), mesh)

    @property
    def length(self) -> int:
        """Of the whole dimension."""
        return max(piece.stop for piece in chain(*self.kept))

    def cut(self, x: Tensor) -> Tensor:
        """This rank's shard, in memory of its own so that the whole can be freed."""
        mine = self.kept[self.mesh.get_local_rank()]
        return torch.cat([x.narrow(self.dim, kept.start, len(kept)) for kept in mine], self.dim)

    def restore(self, x: Tensor) -> Tensor:
        """The whole parameter, from every rank's shard."""
        sizes = [sum(map(len, kept)) for kept in self.kept]
        kept = list(chain(*self.kept))
        pieces = torch.split(all_gather(x, self.dim, sizes, self.mesh), [len(piece) for piece in kept], self.dim)
        shape = list(x.shape)
        shape[self.dim] = self.length
        whole = x.new_empty(shape)
        for where, piece in zip(kept, pieces, strict=True):
            whole.narrow(self.dim, where.start, len(where)).copy_(piece)
        return whole


def even_ranges(length: int, degree: int) -> list[range]:
    """What each rank keeps of a dimension that is cut as evenly as can be."""
    ends = list(accumulate(shard_sizes(length, degree)))
    return [range(start, end) for start, end in zip([0, *ends], ends, strict=False)]
