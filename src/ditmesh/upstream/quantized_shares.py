"""Quantized weights of a module, of which each rank keeps some rows: their parts are gathered as bytes, all at once.

    rank 0    data 0 1 2 3 | scale 0 1 2 3        kept, and sent
    rank 1    data 4 5 6 - | scale 4 5 6 -        as many bytes, the last of which mean nothing

FSDP2 gathers plain tensors. What rests in the module is a weight of the same kind with fewer rows, which moves and is
saved as any other; while the module runs, one that was put together stands in its place.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ditmesh.runtime.collectives import start_all_gather
from ditmesh.runtime.mesh import Axis
from ditmesh.runtime.shards import Shard, even_ranges
from ditmesh.upstream.apart import SHARED, Apart
from ditmesh.upstream.fsdp import Place
from ditmesh.upstream.quantized import seat, settled, take_apart
from ditmesh.upstream.saving import keep_share


def whole_blocks(apart: Apart, axis: Axis) -> Shard | None:
    """The rows that each rank keeps, as even as can be without cutting a block apart; None if there are too few."""
    grain = apart.grain(0)
    blocks = apart.shape[0] // grain
    kept = tuple((range(r.start * grain, r.stop * grain),) for r in even_ranges(blocks, axis.size()))
    return Shard(0, kept, axis) if blocks >= axis.size() else None


class Gathering(NamedTuple):
    """What is under way: what to wait for, what is sent meanwhile, and each part's bytes of all ranks."""

    handle: Any
    sent: Tensor
    received: tuple[Tensor, ...]


class SharedQuantized:
    """Quantized weights of one module, cut when this is made; ``undo`` takes what makes them whole again."""

    def __init__(self, places: list[Place], undo: ExitStack):
        self._by_axis: dict[Any, list[Place]] = {}
        self._hulls: dict[Place, Apart] = {}
        self._shares: dict[Place, Any] = {}  # while the whole weights stand in their places, or are to come
        self._pending: list[Gathering] = []
        for place in places:
            whole = _held(place)
            self._by_axis.setdefault(place.shard.mesh, []).append(place)
            self._hulls[place] = _apart(whole).hull()
            restore = place.shard.restorer(whole)
            keep_share(place.module, undo, **{place.name: restore})
            undo.callback(lambda place=place, restore=restore: _seat(place, restore(_held(place))))
            _seat(place, place.shard.cut(whole))

    @torch.inference_mode(False)  # memory made in it could not be used outside of it
    def start(self) -> None:
        """Begin to gather the weights, if nobody has yet."""
        if self._shares:
            return
        self._shares = {place: _held(place) for place in self._hulls}
        for axis, places in self._by_axis.items():
            parts = [_bytes(x, grain, place.shard) for place in places for x, grain in _cut(self._here(place))]
            sent = torch.cat(parts)
            into = sent.new_empty(axis.size() * len(sent))
            received = into.view(axis.size(), -1).split([len(x) for x in parts], 1)
            self._pending.append(Gathering(start_all_gather(into, sent, axis, True), sent, received))

    @torch.inference_mode(False)
    def wait(self) -> None:
        """Have the weights whole."""
        self.start()
        for gathering, places in zip(self._pending, self._by_axis.values(), strict=False):
            gathering.handle.wait()
            received = iter(gathering.received)
            for place in places:
                _seat(place, self._whole(place, received).weight())
        self._pending = []

    def free(self) -> None:
        """Keep this rank's share alone."""
        for place, share in self._shares.items():
            _seat(place, share)
        self._shares = {}

    def drop(self) -> None:
        """Forget a gathering that failed."""
        self._pending = []
        self.free()

    @contextmanager
    def change(self) -> Iterator[None]:
        """Have the weights whole, and keep a share of what they are in the end."""
        self.wait()
        try:
            yield
            self._hulls = {place: _apart(_held(place)).hull() for place in self._hulls}
            self._shares = {place: place.shard.cut(_held(place)) for place in self._hulls}
        finally:
            self.free()

    def _here(self, place: Place) -> Apart:
        # A share of one row does not show that its scale is for that row alone.
        return replace(_apart(self._shares[place]), grains=self._hulls[place].grains)

    def _whole(self, place: Place, received: Iterator[Tensor]) -> Apart:
        def joined(x: Tensor, grain: int) -> Tensor:
            rows = [len(kept) // grain for (kept,) in place.shard.kept]
            gathered = next(received)
            row = gathered.shape[1] // max(rows)
            pieces = [piece[: count * row] for piece, count in zip(gathered, rows, strict=True)]
            return torch.cat(pieces).view(x.dtype).view(-1, *x.shape[1:])

        return self._here(place).along(0, place.shard.length, joined)


def _held(place: Place) -> Any:
    """What stands there now."""
    return settled(place.module).get_parameter(place.name)


def _seat(place: Place, weight: Tensor) -> None:
    seat(place.module, weight, place.name)


def _apart(weight: Tensor) -> Apart:
    apart = take_apart(weight)
    assert apart is not None
    return apart


def _cut(apart: Apart) -> list[tuple[Tensor, int]]:
    """The parts of which a rank has some rows, and how many of the weight's are one of theirs."""
    grains = {name: grains[0] for name, grains in apart.grains.items()}
    return [(x, grains[name]) for name, x in apart.parts.items() if grains[name] != SHARED]


def _bytes(x: Tensor, grain: int, shard: Shard) -> Tensor:
    """A part's bytes, as many as those of the rank that has most."""
    flat = x.detach().contiguous().flatten().view(torch.uint8)
    most = max(len(kept) // grain for (kept,) in shard.kept)
    return torch.nn.functional.pad(flat, (0, len(flat) // len(x) * (most - len(x))))
