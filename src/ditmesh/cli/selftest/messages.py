"""Whether messages between ranks arrive as they were sent; where the hardware garbles them, every layout is wrong."""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from ditmesh import ParallelismConfig
from ditmesh.runtime.collectives import Rotation, all_gather, all_reduce, all_to_all, broadcast
from ditmesh.runtime.mesh import Axis, start_mesh
from ditmesh.runtime.world import World

LENGTH = 2**18  # numbers from one rank to another


def faults(world: World, device: torch.device) -> list[str]:
    """What did not arrive, as every rank saw it."""
    if world.size == 1:
        return []
    axis = start_mesh(ParallelismConfig(ulysses_size=world.size))["ulysses"]
    found: list[list[str]] = [[] for _ in range(world.size)]
    dist.all_gather_object(found, list(_faults(axis, world.rank, device)))
    return [fault for one in found for fault in one]


def _faults(axis: Axis, rank: int, device: torch.device) -> Iterator[str]:
    ranks = axis.size()

    def sent(source: int, target: int = 0) -> Tensor:
        return torch.arange(LENGTH, device=device, dtype=torch.float32) % 4096 + 4096.0 * (source * ranks + target)

    def wrong(what: str, got: Tensor, source: int, target: int = 0) -> Iterator[str]:
        if not torch.equal(got, sent(source, target)):
            yield f"{what}: rank {rank} received other numbers than rank {source} sent"

    parts = torch.cat([sent(rank, target) for target in range(ranks)])
    came = all_to_all(parts, [LENGTH] * ranks, [LENGTH] * ranks, axis).split(LENGTH)
    gathered = all_gather(sent(rank), 0, [LENGTH] * ranks, axis).split(LENGTH)
    for source in range(ranks):
        yield from wrong("all-to-all", came[source], source, rank)
        yield from wrong("all-gather", gathered[source], source)
        yield from wrong("broadcast", broadcast(sent(rank), source, axis), source)
    before = (rank - 1) % ranks
    yield from wrong("ring", Rotation(sent(rank), torch.empty_like(parts[:LENGTH]), axis).wait(), before)
    total = all_reduce(torch.ones(LENGTH, device=device) * (rank + 1), axis)
    if not torch.equal(total, torch.full_like(total, ranks * (ranks + 1) / 2)):
        yield f"all-reduce: rank {rank} got another sum than that of all ranks"
