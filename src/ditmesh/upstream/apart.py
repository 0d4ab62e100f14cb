"""Quantized weights as plain tensors, each of which goes along with the dimensions of the weight.

    int8 [n, k]    data [n, k]        scale [n, 1]         a row's one scale serves every part of the row
    int4 [n, k]    data [n, k / 2]    scale [n, k / 64]    two weights to a byte, and a scale for each 64
    GGUF [n, k]    data [n, k / 32, 34]                    32 weights and their scale are 34 bytes

So whatever cuts, sends and puts together plain tensors does so with these.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

SHARED = 0  # the grain of a dimension all of which shares one entry


@dataclass(frozen=True)
class Apart:
    """A quantized weight that is taken apart.

    Attributes:
        shape: of the weight it stands for.
        parts: the plain tensors; their first dimensions are those of the weight.
        grains: for each part and dimension, how many of the weight's entries one of the part's stands for.
        build: makes the weight again.
        facts: what is no tensor, for ``build``.
        origin: from what a part was computed, which only the whole weight has.
    """

    shape: tuple[int, ...]
    parts: Mapping[str, Tensor]
    grains: Mapping[str, tuple[int, ...]]
    build: "Callable[[Apart], Tensor]"
    facts: Any = None
    origin: Mapping[str, Any] = field(default_factory=dict)

    def weight(self) -> Tensor:
        """The weight, put together."""
        return self.build(self)

    def grain(self, dim: int) -> int:
        """Of what a cut along a dimension has to be a multiple."""
        return math.lcm(*(grain[dim] or 1 for grain in self.grains.values()))

    def along(self, dim: int, length: int, change: Callable[[Tensor, int], Tensor]) -> "Apart":
        """Another length of a dimension: ``change`` gets each part that has to change, and its grain."""
        parts = {
            name: x if self.grains[name][dim] == SHARED else change(x, self.grains[name][dim])
            for name, x in self.parts.items()
        }
        shape = (*self.shape[:dim], length, *self.shape[dim + 1 :])
        return replace(self, parts=parts, shape=shape, origin={})

    def hull(self) -> "Apart":
        """All but the values of the parts."""
        return self.with_parts({name: torch.empty_like(x, device="meta") for name, x in self.parts.items()})

    def with_parts(self, parts: Mapping[str, Tensor]) -> "Apart":
        """The same of other values."""
        return replace(self, parts=parts)


def ratios(part: Tensor, shape: Iterable[int], shares: bool) -> tuple[int, ...]:
    """A part's grains, from its lengths."""
    lengths = zip(shape, part.shape, strict=False)
    return tuple(SHARED if shares and entries == 1 else whole // entries for whole, entries in lengths)
