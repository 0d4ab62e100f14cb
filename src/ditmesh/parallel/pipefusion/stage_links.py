"""What stages of PipeFusion send each other.

The streams go to the next stage. What a block returned goes to a later stage, too, whose blocks take it (skips). The
latents go from the last stage back to the first.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ditmesh.runtime.collectives import Transfer, broadcast
from ditmesh.runtime.mesh import Axis, Mesh, lanes, shortcut
from ditmesh.upstream.modules import Streams

Given = dict[str, Tensor]
Forms = dict[int, dict[int, Given]]


@dataclass(frozen=True)
class End:
    """One end of a connection of two stages: its group, and the rank of the other end in it."""

    group: Axis
    peer: int


class StageLinks:
    """The forward connections of one stage, and what is under way on them.

    No two stages ever wait for each other, even where a backend (NCCL) connects two ranks at their first transfer and
    holds each of them until the other is there. For all ranks make their transfers in the same order, that of the
    blocks that made what is sent: a stage asks for all it takes before its own blocks run, and sends what they made
    afterwards. Skips have a group for each two stages, so that they keep their order and wait for nothing else.

    Attributes:
        inlets: the connection that brings what a block of an earlier stage returned, by the block's number. The last
            one brings the streams.
        outlets: the connections that take away what a block of this stage returned.
        sent: what is on its way from here.
        forms: the forms of what came in each patch of the step before.
    """

    def __init__(self, mesh: Mesh, stages: Sequence[range], back: Sequence[tuple[int, int]]):
        """``back``: pairs of blocks. The second takes what the first returned, beside its streams."""
        stage, own = mesh["pp"].get_local_rank(), stages[mesh["pp"].get_local_rank()]
        self.edge = own.start - 1
        self.inlets: dict[int, End] = {}
        self.outlets: dict[int, list[End]] = defaultdict(list)
        for made, source, target in leaps(stages, back):
            group = shortcut(mesh, source, target)
            if group is not None and target == stage:
                self.inlets[made] = End(group, 0)
            if group is not None and source == stage:
                self.outlets[made].append(End(group, 1))
        even, odd = lanes(mesh)
        inward, outward = (odd, even) if stage % 2 == 0 else (even, odd)
        if stage > 0:
            self.inlets[self.edge] = End(inward, stage - 1)
        if stage < len(stages) - 1:
            self.outlets[own.stop - 1].append(End(outward, stage + 1))
        self.sent: list[Transfer] = []
        self.coming: dict[int, dict[str, Transfer]] = {}
        self.awaited: list[tuple[Tensor, Transfer]] = []

    def send(self, made: int, streams: Streams) -> None:
        """Send what a block returned to all stages that take it, without waiting."""
        for x in _given(streams).values():
            # A copy: the model may change the streams in place between two blocks.
            copy = x.detach().clone(memory_format=torch.contiguous_format)
            self.sent += [Transfer(copy, end.group, to=end.peer) for end in self.outlets[made]]

    def begin(self, patch: int, forms: Forms) -> None:
        """A patch begins. ``forms``: those of what came in each patch of the step before, if anything did."""
        self.patch, self.forms, self.form = patch, forms, dict[int, Given]()

    def receive(self, made: int, like: Streams) -> Streams:
        """What a block of an earlier stage returns, in the form of the streams that it was given.

        A skip is NaN at first. Its numbers are there when the last block before this stage returns, so that the model
        may still add something before a block takes it.
        """
        given = _given(like)
        coming = self.coming.pop(made, None) or self._expect(made, given)
        assert coming.keys() == given.keys(), "a patch has other streams than before"
        self.form[made] = {name: torch.empty_like(x, device="meta") for name, x in given.items()}
        if made != self.edge:
            later = {name: torch.full_like(x, torch.nan) for name, x in given.items()}
            self.awaited += [(later[name], coming[name]) for name in given]
            return like | later
        self._look_ahead(next(iter(given.values())).device)
        for x, transfer in self.awaited:
            x.copy_(_arrived(transfer, x))
        self.awaited = []
        return like | {name: _arrived(transfer, given[name]) for name, transfer in coming.items()}

    def _look_ahead(self, device: torch.device) -> None:
        """Receive what the next patch takes while this one computes."""
        self.forms[self.patch] = self.form
        for made, given in self.forms.get(self.patch + 1, {}).items():
            self.coming[made] = self._expect(made, {k: torch.empty_like(x, device=device) for k, x in given.items()})

    def _expect(self, made: int, like: Given) -> dict[str, Transfer]:
        end = self.inlets[made]
        empty = {name: torch.empty_like(x, memory_format=torch.contiguous_format) for name, x in like.items()}
        return {name: Transfer(x, end.group, source=end.peer) for name, x in empty.items()}

    def finish(self, first: int | None = None) -> None:
        """Wait until the first few messages have arrived, or all that were sent."""
        for transfer in self.sent[:first]:
            transfer.wait()
        del self.sent[:first]

    def drop(self) -> None:
        """A request has failed: nothing that is on its way arrives any more."""
        self.sent, self.coming, self.awaited = [], {}, []


def _arrived(transfer: Transfer, like: Tensor) -> Tensor:
    x = transfer.wait()
    assert x.shape == like.shape, "a patch has another form than before"
    return x


def _given(streams: Streams) -> Given:
    """The streams that a call has, without those that are None or empty."""
    return {name: x for name, x in streams.items() if x is not None and x.numel()}


def leaps(stages: Sequence[range], back: Sequence[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """The skips that leave a stage, each once: (the block that returns it, its stage, the stage that takes it).

    Blocks 0 1 | 2 3 | 4 5, of which 3 takes what 2 returned, 4 what 1 returned and 5 what 0 returned:

        (0, 0, 2) (1, 0, 2)

    What the last block before a stage returned is no skip: it comes as the stage's streams.
    """
    stage_of = {block: stage for stage, blocks in enumerate(stages) for block in blocks}
    found = {(made, stage_of[made], stage_of[taken]) for made, taken in back}
    return sorted(x for x in found if x[1] != x[2] and x[0] != stages[x[2]].start - 1)


class Lane:
    """One rank's end of the way of the latents, from the last stage back to the first; or neither end."""

    def __init__(self, mesh: Mesh):
        self.stages, self.group = mesh["pp"], lanes(mesh)[1]
        rank, self.last = self.stages.get_local_rank(), self.stages.size() - 1
        self.is_first, self.is_last = rank == 0, rank == self.last
        self.arriving: dict[int, Transfer] = {}
        self.leaving: list[Transfer] = []

    def send(self, x: Tensor) -> None:
        """The last stage sends a patch."""
        if x.numel():
            self.leaving.append(Transfer(x.contiguous(), self.group, to=0))

    def expect(self, patches: list[Tensor]) -> None:
        """The first stage will take patches like these."""
        for patch, x in enumerate(patches):
            if x.numel():
                empty = torch.empty_like(x, memory_format=torch.contiguous_format)
                self.arriving[patch] = Transfer(empty, self.group, source=self.last)

    def take(self, patch: int, into: Tensor) -> None:
        """The first stage takes a patch, if one is on its way."""
        if patch in self.arriving:
            into.copy_(self.arriving.pop(patch).wait())

    def finish(self, first: int | None = None) -> None:
        """Wait until the first few patches have arrived, or all that were sent."""
        for transfer in self.leaving[:first]:
            transfer.wait()
        del self.leaving[:first]

    def drop(self) -> None:
        """A request has failed: nothing that is on its way arrives any more."""
        self.arriving, self.leaving = {}, []

    def clear(self) -> None:
        """Drop what is on its way."""
        for transfer in self.arriving.values():
            transfer.wait()
        self.arriving = {}
        self.finish()

    def share(self, x: Tensor) -> None:
        """All stages take the last one's tensor, in place."""
        broadcast(x, self.last, self.stages)
