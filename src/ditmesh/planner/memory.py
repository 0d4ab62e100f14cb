"""How much memory tensors without memory would take: what is alive, and the most that ever was."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ditmesh.upstream.hollow import Storages
from ditmesh.upstream.operators import returns_given
from ditmesh.upstream.trees import tensors


@dataclass
class Span:
    """What happened in a stretch of the program: bytes above those that were alive when it began."""

    peak: int = 0
    left: int = 0


class Memory:
    """Follows the memory of tensors that operators make; views have that of another one.

    Attributes:
        live: bytes that are alive now.
        peak: the most since it was last set.
    """

    def __init__(self) -> None:
        self.live = self.peak = 0
        self._known = Storages()

    def made(self, func: Any, out: Any) -> None:
        """An operator has run."""
        if not returns_given(func):
            for x in tensors(out):
                self.add(x)

    def add(self, x: Tensor) -> None:
        """Take notice of a tensor's memory, if it is new."""
        storage = x.untyped_storage()
        if self._known.add(storage):
            size = storage.nbytes()
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.live -= size

    def rises(self, size: int) -> None:
        """So much was there for a moment."""
        self.peak = max(self.peak, self.live + size)

    @contextmanager
    def span(self) -> Iterator[Span]:
        """What a stretch needs beside what is there."""
        before, start, span = self.peak, self.live, Span()
        self.peak = start
        try:
            yield span
        finally:
            span.peak, span.left = self.peak - start, self.live - start
            self.peak = max(before, self.peak)
