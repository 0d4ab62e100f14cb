"""Bands of rows: which rows of a picture each rank holds at every resolution, and how it gets its neighbours' rows.

The bands of the coarsest resolution fix those of all others, so every rank knows every size without asking::

    latent rows      0 1 2 | 3 4 | 5 6        3 ranks, 7 rows
    picture rows x8  0..24 | ..40 | ..56      scaled; odd rows a picture has beyond the last latent row go to the last

With fewer rows than ranks the ranks left over compute the band of another one and are not asked for it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ditmesh.runtime.collectives import all_gather, all_to_all, shard_sizes
from ditmesh.runtime.mesh import Axis


@dataclass(frozen=True)
class Window:
    """What a convolution does along the height, in rows; ``before`` and ``after`` are its padding."""

    kernel: int
    stride: int
    before: int
    after: int

    def outputs(self, rows: int) -> int:
        """How many rows come out of ``rows``."""
        return (rows + self.before + self.after - self.kernel) // self.stride + 1


@dataclass(frozen=True)
class Bands:
    """Band i holds the rows ``edges[i]`` up to ``edges[i + 1]`` of a picture."""

    edges: tuple[int, ...]

    @classmethod
    def cut(cls, rows: int, degree: int, grain: int) -> "Bands":
        """As even as can be, each band but the last a multiple of ``grain`` rows, none empty."""
        whole = max(rows // grain, 1)
        sizes = shard_sizes(whole, min(whole, degree))
        return cls((*(grain * row for row in accumulate(sizes[:-1], initial=0)), rows))

    def __len__(self) -> int:
        return len(self.edges) - 1

    def __getitem__(self, band: int) -> tuple[int, int]:
        return self.edges[band], self.edges[band + 1]

    @property
    def sizes(self) -> list[int]:
        """The rows of each band."""
        return [stop - start for start, stop in pairwise(self.edges)]

    def scaled(self, ratio: Fraction) -> "Bands":
        """The same bands at another resolution."""
        edges = [edge * ratio for edge in self.edges]
        assert all(edge.denominator == 1 for edge in edges), f"{self.edges} cannot be scaled by {ratio}"
        return Bands(tuple(edge.numerator for edge in edges))

    def through(self, window: Window) -> "Bands":
        """The bands of a convolution's output."""
        assert all(edge % window.stride == 0 for edge in self.edges[:-1]), f"{self.edges} cut a stride"
        return Bands((*(edge // window.stride for edge in self.edges[:-1]), window.outputs(self.edges[-1])))

    def needed(self, window: Window) -> list[tuple[int, int]]:
        """The rows that a convolution has to see for each band of its output, from a multiple of the stride on.

        stride 1, kernel 3:  . . [# # #] . .       stride 2, kernel 3, padded below:  . . [# # # #] . .
                               ~~~~~~~~~                                                  ~~~~~~~~~~~
        """
        spans = []
        for (start, stop), (first, last) in zip(
            pairwise(self.edges), pairwise(self.through(window).edges), strict=True
        ):
            begin = (first * window.stride - window.before) // window.stride * window.stride
            end = (last - 1) * window.stride - window.before + window.kernel
            spans.append((max(min(begin, start), 0), min(max(end, stop), self.edges[-1])))
        return spans


class Rows:
    """The bands of one pass through an encoder or a decoder, found by the number of rows this rank holds."""

    def __init__(self, mesh: Axis):
        self.mesh = mesh
        self._known: dict[int, Bands] = {}
        self._latest = self.band = 0

    def begin(self, bands: Bands) -> None:
        """Start a pass whose input is cut into ``bands``."""
        self.band = self.mesh.get_local_rank() % len(bands)
        self.owner = self.mesh.get_local_rank() < len(bands)  # another rank has this band too, and answers for it
        self._known = {}
        self.learn(bands)

    def learn(self, bands: Bands) -> None:
        """Take notice of a resolution that is no multiple of one before."""
        self._latest = bands.sizes[self.band]
        self._known[self._latest] = bands

    def bands(self, x: Tensor) -> Bands:
        """The bands of the picture ``x`` is this rank's band of."""
        height = x.shape[-2]
        if height not in self._known:
            self._known[height] = self._known[self._latest].scaled(Fraction(height, self._latest))
        return self._known[height]

    def shard(self, x: Tensor, bands: Bands) -> Tensor:
        """[..., H, W] -> [..., h, W]"""
        start, stop = bands[self.band]
        return x[..., start:stop, :].contiguous()

    def gather(self, x: Tensor, bands: Bands) -> Tensor:
        """[..., h, W] -> [..., H, W]"""
        return self.gather_sizes(x, -2, bands.sizes)

    def gather_sizes(self, x: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
        """Every band's part of ``dim``, ``sizes[i]`` long in band i, put together."""
        spare = self.mesh.size() - len(sizes)
        mine = x if self.owner else x.narrow(dim, 0, 0)
        return all_gather(mine, dim, [*sizes, *[0] * spare], self.mesh).contiguous()  # as one process makes it

    def extend(self, tensors: Sequence[Tensor], bands: Bands, spans: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Each tensor [..., h, W] with the rows of others that ``spans`` asks for this rank's band, in one message."""
        if all(span == bands[band] for band, span in enumerate(spans)):
            return list(tensors)
        ranks, mine, origin = range(self.mesh.size()), self.band, bands.edges[self.band]
        send = [
            _overlap(spans[rank % len(bands)], bands[mine], self.owner and rank % len(bands) != mine) for rank in ranks
        ]
        receive = [
            _overlap(spans[mine], bands[rank % len(bands)], rank < len(bands) and rank != mine) for rank in ranks
        ]
        rows = [x.movedim(-2, 0) for x in tensors]  # each [h, ..., W]
        row_sizes = [x.shape[1:].numel() for x in rows]
        flat = torch.cat([x[start - origin : stop - origin].flatten() for start, stop in send for x in rows])
        counts = [[(stop - start) * sum(row_sizes) for start, stop in spans] for spans in (send, receive)]
        received = all_to_all(flat, counts[0], counts[1], self.mesh)
        parts = received.split([(stop - start) * size for start, stop in receive for size in row_sizes])
        extended = []
        for i, x in enumerate(rows):
            halo = [part.view(-1, *x.shape[1:]) for part in parts[i :: len(rows)]]
            extended.append(torch.cat([*halo[:mine], x, *halo[mine:]]).movedim(0, -2))
        return extended


def _overlap(span: tuple[int, int], band: tuple[int, int], asked: bool) -> tuple[int, int]:
    start, stop = max(span[0], band[0]), min(span[1], band[1])
    return (start, stop) if asked and start < stop else (band[0], band[0])


class SharedGroupNorm(nn.GroupNorm):
    """Group norm over all ranks' rows: each rank's mean and variance cross ranks, and merge by the parallel formula.

    (Chan, Golub, LeVeque 1979.) In float32, or float64 for float64. Holds the parameters of the norm it stands for.
    """

    def __init__(self, norm: nn.GroupNorm, rows: Rows):
        super().__init__(norm.num_groups, norm.num_channels, norm.eps, affine=False)
        self.weight, self.bias, self.training = norm.weight, norm.bias, norm.training
        self._rows = rows

    def forward(self, input: Tensor) -> Tensor:
        if input.is_meta:
            return super().forward(input)
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        variance, mean = torch.var_mean(x.reshape(len(x), self.num_groups, -1), -1, correction=0)
        count = x[0].numel() // self.num_groups if self._rows.owner else 0
        ours = torch.stack([mean, variance, torch.full_like(mean, count)])[None]
        means, variances, counts = all_gather(ours, 0, [1] * self._rows.mesh.size(), self._rows.mesh).unbind(1)
        weights = counts / counts.sum(0)
        mean = (weights * means).sum(0)
        variance = (weights * (variances + (means - mean).square())).sum(0)  # [B, groups]
        width, shape = self.num_channels // self.num_groups, (len(x), -1, *[1] * (x.ndim - 2))
        scale = torch.rsqrt(variance + self.eps).repeat_interleave(width, 1)  # [B, C]
        scale = scale if self.weight is None else scale * self.weight
        shift = -mean.repeat_interleave(width, 1) * scale
        shift = shift if self.bias is None else shift + self.bias
        return torch.addcmul(shift.view(shape), x, scale.view(shape)).to(input.dtype)


class Halo:
    """Lets a convolution see the rows around its band, and drops the rows it makes outside of it.

    Its own padding is right at the edges of the picture, and elsewhere only reaches rows that are dropped.
    """

    def __init__(self, rows: Rows, window: Window):
        self._rows, self._window = rows, window
        self._first = self._count = 0

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Extend each tensor argument that is a band: the input, and what a causal convolution keeps of it."""
        rows, window = self._rows, self._window
        bands = rows.bands(args[0])
        spans, out = bands.needed(window), bands.through(window)
        start, stop = out[rows.band]
        self._first, self._count = start - spans[rows.band][0] // window.stride, stop - start
        if window.stride > 1:
            rows.learn(out)
        height = args[0].shape[-2]
        held = [x for x in [*args, *kwargs.values()] if isinstance(x, Tensor) and x.ndim > 3 and x.shape[-2] == height]
        extended = {id(x): whole for x, whole in zip(held, rows.extend(held, bands, spans), strict=True)}
        return (
            tuple(extended.get(id(x), x) for x in args),
            {key: extended.get(id(x), x) for key, x in kwargs.items()},
        )

    def after(self, module: nn.Module, args: object, output: object) -> Any:
        """Keep the rows of the band."""
        return first_of(output, lambda x: x.narrow(-2, self._first, self._count).contiguous())


class AllRows:
    """Lets a module see all rows: its input is gathered and its output cut again."""

    def __init__(self, rows: Rows):
        self._rows = rows
        self._bands = Bands((0,))

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        self._bands = self._rows.bands(args[0])
        return (self._rows.gather(args[0], self._bands), *args[1:]), kwargs

    def after(self, module: nn.Module, args: Any, output: Any) -> Any:
        return self._rows.shard(output, self._bands)


def first_of(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Change a tensor, or the first of a tuple that also returns a cache."""
    return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)
