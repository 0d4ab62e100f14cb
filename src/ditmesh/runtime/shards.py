"""Which part of a parameter each rank keeps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from typing import Self

import torch
from torch import Tensor

from ditmesh.runtime.collectives import all_gather, shard_sizes
from ditmesh.runtime.mesh import Axis
from ditmesh.upstream.quantized import take_apart


@dataclass(frozen=True)
class Shard:
    """Which ranges of one dimension of a parameter each rank keeps; two ranks may keep the same one."""

    dim: int
    kept: tuple[tuple[range, ...], ...]  # by rank
    mesh: Axis

    @classmethod
    def even(cls, dim: int, parts: tuple[int, ...], mesh: Axis) -> Self:
        """Every packed part of the dimension over the ranks, as evenly as can be."""
        return cls(dim, even_parts(parts, mesh.size()), mesh)

    @property
    def length(self) -> int:
        """Of the whole dimension."""
        return max(piece.stop for piece in chain(*self.kept))

    def cut(self, x: Tensor) -> Tensor:
        """This rank's shard, in memory of its own so that the whole can be freed."""
        apart, mine = take_apart(x), self.kept[self.mesh.get_local_rank()]
        if apart is not None:
            return apart.along(self.dim, sum(map(len, mine)), lambda part, grain: self._by(grain).cut(part)).weight()
        return torch.cat([x.narrow(self.dim, kept.start, len(kept)) for kept in mine], self.dim)

    def restorer(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """What makes every rank's shard of this parameter whole again."""
        apart = take_apart(x)
        if apart is None:
            return self.restore
        hull = apart.hull()

        def restore(mine: Tensor) -> Tensor:
            here = take_apart(mine)
            assert here is not None
            here = replace(here, grains=hull.grains)  # a shard does not show how much its only scale is for
            whole = here.along(self.dim, self.length, lambda part, grain: self._by(grain).restore(part))
            return replace(whole, origin=hull.origin).weight()

        return restore

    def restore(self, x: Tensor) -> Tensor:
        """The whole of a plain parameter, from every rank's shard."""
        if x.dtype.itemsize == 1 and x.dtype != torch.uint8:
            return self.restore(x.view(torch.uint8)).view(x.dtype)  # not every kind of bytes can be sent
        sizes = [sum(map(len, kept)) for kept in self.kept]
        kept = list(chain(*self.kept))
        pieces = torch.split(all_gather(x, self.dim, sizes, self.mesh), [len(piece) for piece in kept], self.dim)
        shape = list(x.shape)
        shape[self.dim] = self.length
        whole = x.new_empty(shape)
        for where, piece in zip(kept, pieces, strict=True):
            whole.narrow(self.dim, where.start, len(where)).copy_(piece)
        return whole

    def _by(self, grain: int) -> Self:
        """The same ranges of something that has one entry for so many."""
        kept = tuple(tuple(range(r.start // grain, r.stop // grain) for r in mine) for mine in self.kept)
        return replace(self, kept=kept)


def fits(kept: Sequence[Sequence[range]], grain: int) -> bool:
    """Whether no range begins or ends within this many entries that belong together."""
    return not any(end % grain for piece in chain(*kept) for end in (piece.start, piece.stop))


def even_parts(parts: Sequence[int], degree: int) -> tuple[tuple[range, ...], ...]:
    """What each rank keeps of parts that are packed one after the other."""
    ranges = [
        [range(start + cut.start, start + cut.stop) for cut in even_ranges(part, degree)]
        for start, part in zip(accumulate(parts, initial=0), parts, strict=False)
    ]
    return tuple(zip(*ranges, strict=True))


def even_ranges(length: int, degree: int) -> list[range]:
    """What each rank keeps of a dimension that is cut as evenly as can be."""
    ends = list(accumulate(shard_sizes(length, degree)))
    return [range(start, end) for start, end in zip([0, *ends], ends, strict=False)]
