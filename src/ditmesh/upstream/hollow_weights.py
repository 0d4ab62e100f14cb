"""What ``shard_weights`` gathers of hollow weights: FSDP2 itself asks for memory that these do not have."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from ditmesh.runtime.collectives import start_all_gather
from ditmesh.upstream.hollow import Hollow


class HollowWeights:
    """Stands for ``SharedWeights``: a share of each weight is kept, and those of one type are gathered as one.

    Attributes:
        places: the weights.
        whole: what is gathered by now, a tensor for each type.
    """

    def __init__(self, places: list[Any], undo: ExitStack):
        self._places = places
        self._before = [place.module.get_parameter(place.name) for place in places]
        self._shares = [_share(place.shard.cut(x.detach())) for place, x in zip(places, self._before, strict=True)]
        self.whole: list[Any] = []
        self._coming = False
        undo.callback(self._seat, self._before)
        self._seat(self._shares)

    def start(self) -> None:
        """Begin to gather."""
        if self._coming:
            return
        self._coming = True
        units: dict[Any, list[int]] = {}
        for i, (place, share) in enumerate(zip(self._places, self._shares, strict=True)):
            units.setdefault((place.shard.mesh, share.dtype), []).append(i)
        for (axis, dtype), numbers in units.items():
            # Equal shares, of which the last ones may be filled up.
            rows = sum(len(self._places[i].shard.kept[0][0]) * self._shares[i][:1].numel() for i in numbers)
            mine, whole = (torch.empty(x, dtype=dtype, device="meta") for x in (rows, rows * axis.size()))
            mine, whole = Hollow.of(mine), Hollow.of(whole)
            start_all_gather(whole, mine.clone(), axis, True)
            self.whole.append(whole.clone())

    def wait(self) -> None:
        """Have them whole."""
        self.start()
        self._coming = False
        self._seat(self._before)

    def free(self) -> None:
        """Have the shares alone."""
        self.whole = []
        self._seat(self._shares)

    drop = free

    @contextmanager
    def change(self) -> Iterator[None]:
        """Nothing of them changes."""
        yield

    def _seat(self, weights: list[nn.Parameter]) -> None:
        for place, weight in zip(self._places, weights, strict=True):
            place.module._parameters[place.name] = weight


def _share(x: Any) -> nn.Parameter:
    return nn.Parameter(x, requires_grad=False)
