"""Torch's FSDP2 on some weights of a module: each rank keeps a share of them, and all are whole while it runs.

``fully_shard`` gives the module that it takes another class and hooks of its own. So it is given carriers, which have
nothing but the very dictionaries of parameters: the module itself stays what it is, whoever overrides its forward.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import UnshardHandle, fully_shard
from torch.distributed.fsdp._fully_shard._fsdp_api import AllGather
from torch.distributed.tensor import DTensor

from ditmesh.runtime.collectives import start_all_gather
from ditmesh.runtime.mesh import Axis
from ditmesh.runtime.shards import Shard
from ditmesh.upstream.hollow import Hollow
from ditmesh.upstream.hollow_weights import HollowWeights
from ditmesh.upstream.saving import keep_share
from ditmesh.upstream.unread import drop, read


class Place(NamedTuple):
    """Where a weight stands, and which part of it each rank keeps."""

    module: nn.Module
    name: str
    shard: Shard


def rows(length: int, axis: Axis) -> Shard:
    """The rows of a weight that each rank keeps, as FSDP2 shares them out: equal numbers, and the last ones fewer."""
    most = -(-length // axis.size())
    starts = [min(most * rank, length) for rank in range(axis.size())]
    return Shard(0, tuple((range(start, min(start + most, length)),) for start in starts), axis)


class Carrier(nn.Module):
    """Holds parameters: the dictionary of a module's own, or other carriers."""

    @classmethod
    def of(cls, places: list[Place]) -> "Carrier":
        """One for each module, in one."""
        made = cls()
        for module in {id(place.module): place.module for place in places}.values():
            own = cls()
            own._parameters = module._parameters
            made.add_module(str(id(module)), own)
        return made


class _Gather(AllGather):
    """FSDP2's gather, in the group that an axis has by now: it is made again when a request has failed."""

    def __init__(self, axis: Axis):
        self.axis = axis

    def allocate(self, size: Any, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: Any, async_op: bool = False) -> Any:
        return start_all_gather(output_tensor, input_tensor, self.axis, async_op)


class SharedWeights:
    """Weights of one module, cut when this is made; ``undo`` takes what makes them whole again, on all ranks."""

    def __init__(self, places: list[Place], undo: ExitStack):
        self._places = places
        self._before = [place.module.get_parameter(place.name) for place in places]
        self._units: list[Any] = []
        self._pending: list[UnshardHandle] = []
        self._seen: Any = None
        undo.callback(self._restore)
        self._carry([read(place.shard.cut(x.detach())) for place, x in zip(places, self._before, strict=True)])
        for place, x in zip(places, self._before, strict=True):
            drop(x)
            keep_share(place.module, undo, **{place.name: lambda x, shard=place.shard: shard.restore(x.to_local())})

    @torch.inference_mode(False)  # memory made in it could not be gathered into outside of it
    def start(self) -> None:
        """Begin to gather the weights, if nobody has yet."""
        if self._pending:
            return
        if self._seen != self._look():  # they were cast, or moved; or their group is another one
            self._carry([x._local_tensor for x in self._shares()])
        self._pending = [unit.unshard(async_op=True) for unit in self._units]

    @torch.inference_mode(False)
    def wait(self) -> None:
        """Have the weights whole."""
        self.start()
        for handle in self._pending:
            handle.wait()
        self._pending = []

    def free(self) -> None:
        """Keep this rank's share alone."""
        for unit in self._units:
            unit.reshard()

    def drop(self) -> None:
        """Forget a gathering that failed, and the group that it failed in."""
        self.free()
        self._pending, self._units, self._seen = [], [], None

    @contextmanager
    def change(self) -> Iterator[None]:
        """Have the weights whole, and keep a share of what they are in the end."""
        self.start()
        shares = self._shares()
        self.wait()
        try:
            yield
            for place, share in zip(self._places, shares, strict=True):
                share._local_tensor.copy_(place.shard.cut(_held(place).detach()))
        finally:
            self.drop()  # a weight may have been given other memory, which nothing gathers into

    def _shares(self) -> list[Any]:
        return [_held(place) for place in self._places]

    def _look(self) -> Any:
        return [(id(x), x.dtype, x._local_tensor.data_ptr()) for x in self._shares()]

    def _carry(self, shares: list[Tensor]) -> None:
        """Make a unit of all weights of one type that the same ranks share."""
        units: dict[Any, list[int]] = {}
        for i, (place, share) in enumerate(zip(self._places, shares, strict=True)):
            units.setdefault((place.shard.mesh, share.dtype), []).append(i)
        self._units = []
        for (axis, _), numbers in units.items():
            self._units.append(_unit([self._places[i] for i in numbers], [shares[i] for i in numbers], axis))
        self._seen = self._look()

    def _restore(self) -> None:
        for place, share, x in zip(self._places, self._shares(), self._before, strict=True):
            x.data = place.shard.restore(share.detach().to_local())
            x.requires_grad = share.requires_grad
            place.module._parameters[place.name] = x


Shared = SharedWeights | HollowWeights


def share(places: list[Place], undo: ExitStack) -> Shared:
    """Leave each rank a share of some weights of a module; ``undo`` takes what makes them whole, on all ranks."""
    is_hollow = any(isinstance(place.module.get_parameter(place.name), Hollow) for place in places)
    return HollowWeights(places, undo) if is_hollow else SharedWeights(places, undo)


def _held(place: Place) -> Any:
    """What stands there now: the weight, or a share of it."""
    return place.module._parameters[place.name]


def _unit(places: list[Place], shares: list[Tensor], axis: Axis) -> Any:
    """What FSDP2 gathers at once. It is made without values, and given the shares where they are: none is whole."""
    own = set[nn.Parameter]()
    for place, share in zip(places, shares, strict=True):
        shape = (place.shard.length, *share.shape[1:])
        empty = nn.Parameter(torch.empty(shape, dtype=share.dtype, device="meta"), _held(place).requires_grad)
        place.module._parameters[place.name] = empty
        own.add(empty)
    carrier = Carrier.of(places)
    mesh = DeviceMesh.from_group(axis.get_group(), axis.device_type)
    unit = fully_shard(carrier, mesh=mesh, ignored_params=set(carrier.parameters()) - own)
    unit.set_custom_all_gather(_Gather(axis))
    state = {
        f"{id(place.module)}.{place.name}": DTensor(share, _held(place)._spec, requires_grad=False)
        for place, share in zip(places, shares, strict=True)
    }
    carrier.load_state_dict(state, strict=False, assign=True)
    return unit
