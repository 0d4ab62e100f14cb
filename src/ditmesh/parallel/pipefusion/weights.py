"""Free the weights of other stages' blocks, and give them back."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ditmesh.runtime.collectives import broadcast
from ditmesh.runtime.mesh import Axis
from ditmesh.upstream.apart import Apart
from ditmesh.upstream.modules import Link
from ditmesh.upstream.quantized import seat, settled, take_apart
from ditmesh.upstream.saving import keep_share
from ditmesh.upstream.unread import drop


@dataclass
class Seat:
    """Where a weight is, and what brings its owner's to all stages."""

    owner: int
    of_owner: Callable[[Tensor], Tensor]
    plain: bool
    places: list[tuple[nn.Module, str]] = field(default_factory=list)

    @property
    def weight(self) -> nn.Parameter:
        module, name = self.places[0]
        return settled(module).get_parameter(name)

    def drop(self) -> None:
        """Free the weight."""
        weight = self.weight
        if self.plain:
            drop(weight)
        else:
            self._fill(nn.Parameter(torch.empty(0, dtype=weight.dtype, device=weight.device), requires_grad=False))

    def put_back(self, dropped: bool) -> None:
        """Take the owner's weight, as all stages have to."""
        weight = self.weight
        whole = self.of_owner(weight.data if self.plain else weight)
        if dropped and self.plain:
            weight.data = whole
        elif dropped:
            self._fill(whole)

    def _fill(self, weight: Tensor) -> None:
        for module, name in self.places:
            seat(module, weight, name)


def drop_weights(links: list[Link], stages: list[range], lent: list[nn.Module], mesh: Axis, undo: ExitStack) -> None:
    """Free the weights of other stages' blocks, but for lent ones. To undo it, each stage gives its own to all."""
    seats: dict[int, Seat] = {}
    kept = {id(x) for module in lent for x in module.parameters()}
    for owner, module in [(owner, x) for owner, i in enumerate(stages) for at in i for x in links[at].block.modules()]:
        weights = dict(module.named_parameters(recurse=False))
        for name, weight in weights.items():
            seat_ = seats.setdefault(id(weight), _seat(owner, weight, mesh))
            seat_.places.append((module, name))
        keep_share(module, undo, **{name: seats[id(weight)].of_owner for name, weight in weights.items()})
        if owner == mesh.get_local_rank():
            kept |= {id(weight) for weight in weights.values()}
    undo.callback(lambda: [one.put_back(dropped=key not in kept) for key, one in seats.items()])
    for key, one in seats.items():
        if key not in kept:
            one.drop()


def _seat(owner: int, weight: Tensor, mesh: Axis) -> Seat:
    if take_apart(weight) is None:
        return Seat(owner, partial(_of_owner, owner, weight.shape, mesh), plain=True)
    return Seat(owner, partial(_quantized_of_owner, owner, mesh), plain=False)


def _of_owner(owner: int, shape: torch.Size, mesh: Axis, x: Tensor) -> Tensor:
    """A weight of one stage on all of them."""
    is_owner = owner == mesh.get_local_rank()
    return broadcast(x.contiguous() if is_owner else x.new_empty(shape), owner, mesh)


def _quantized_of_owner(owner: int, mesh: Axis, x: Tensor) -> Tensor:
    """A quantized weight of one stage on all of them: what is no tensor, and then each of its parts."""
    own = take_apart(x) if owner == mesh.get_local_rank() else None
    sent: list[Apart | None] = [own and own.hull()]
    dist.broadcast_object_list(sent, group=mesh.get_group(), group_src=owner)
    (hull,) = sent
    assert hull is not None
    parts = {name: torch.empty_like(part, device=x.device) for name, part in hull.parts.items()}
    if own is not None:
        parts = {name: part.contiguous() for name, part in own.parts.items()}
    for part in parts.values():
        broadcast(part.view(torch.uint8) if part.dtype.itemsize == 1 else part, owner, mesh)
    return hull.with_parts(parts).weight()
