"""How patches of latents get from the last stage of PipeFusion back to the first."""

import torch
from torch import Tensor

from ditmesh.collectives import Transfer, broadcast
from ditmesh.mesh import Mesh, lanes


class Lane:
    """One rank's end of it, or neither."""

    def __init__(self, mesh: Mesh):
        self.stages, self.group = mesh["pp"], lanes(mesh)[1]
        rank, self.last = self.stages.get_local_rank(), self.stages.size() - 1
        self.is_first, self.is_last = rank == 0, rank == self.last
        self.arriving: dict[int, Transfer] = {}
        self.leaving: list[Transfer] = []

    def send(self, x: Tensor) -> None:
        """The last stage has made a patch."""
        if x.numel():
            self.leaving.append(Transfer(x.contiguous(), self.group, to=0))

    def expect(self, patches: list[Tensor]) -> None:
        """The first stage will need patches like these."""
        for patch, x in enumerate(patches):
            if x.numel():
                empty = torch.empty_like(x, memory_format=torch.contiguous_format)
                self.arriving[patch] = Transfer(empty, self.group, source=self.last)

    def take(self, patch: int, into: Tensor) -> None:
        """The first stage begins a patch."""
        if patch in self.arriving:
            into.copy_(self.arriving.pop(patch).wait())

    def finish(self, first: int | None = None) -> None:
        """Wait until what was sent has arrived, or the first few patches of it."""
        for transfer in self.leaving[:first]:
            transfer.wait()
        del self.leaving[:first]

    def clear(self) -> None:
        """What is on its way is not needed."""
        for transfer in self.arriving.values():
            transfer.wait()
        self.arriving = {}
        self.finish()

    def share(self, x: Tensor) -> None:
        """All ranks take what the last stage has of a whole tensor."""
        broadcast(x, self.last, self.stages)
