"""How the sequences of one transformer are cut over the ranks in the forward under way; every layer reads it."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from ditmesh.collectives import all_gather, shard, shard_sizes
from ditmesh.mesh import sequence_mesh


@dataclass
class Sequence:
    """The streams of one transformer: whole lengths, and padding masks if a stream has one.

    Whoever cuts a tensor records its whole length here, so that no rank ever has to ask another for a size. Masks are
    known whole on every rank before they are cut, so no mask is ever sent.
    """

    mesh: DeviceMesh
    lengths: dict[str, int] = field(default_factory=dict)
    masks: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ring, self.ulysses = self.mesh["ring"], self.mesh["ulysses"]
        self.ranks = sequence_mesh(self.mesh)
        self._key_masks: dict[tuple[str, ...], Tensor] = {}
        self._additive_masks: dict[tuple[str, ...], Tensor] = {}

    def begin(self) -> None:
        """Forget the last forward."""
        self.lengths.clear()
        self.masks.clear()
        self._key_masks.clear()
        self._additive_masks.clear()

    def cut(self, x: Tensor, dim: int, stream: str) -> Tensor:
        """This rank's shard of a tensor along a stream.

        Where a stream has fewer tokens than ranks, a rank without one holds a copy of the first instead, since models
        do not run on no tokens; attention and ``gather`` leave it out.

        Raises:
            ValueError: the tensor is not as long as the stream's other tensors.
        """
        length = self.lengths.setdefault(stream, x.shape[dim])
        if x.shape[dim] != length:
            raise ValueError(f"a tensor has {x.shape[dim]} positions along the {stream} stream, which has {length}.")
        piece = shard(x, dim, self.ranks)
        return (piece if piece.shape[dim] else x.narrow(dim, 0, 1)).contiguous()

    def gather(self, x: Tensor, dim: int, stream: str) -> Tensor:
        """The whole of a tensor that each rank holds a shard of."""
        sizes = self.shards((stream,))
        return all_gather(x.narrow(dim, 0, sizes[self.ranks.get_local_rank()]), dim, sizes, self.ranks)

    def held(self, streams: tuple[str, ...]) -> list[tuple[int, bool]]:
        """How many tokens of each stream this rank holds, and whether they are a share of its own or a stand-in."""
        own = [self.shards((stream,))[self.ranks.get_local_rank()] for stream in streams]
        return [(max(tokens, 1), tokens > 0) for tokens in own]

    def shards(self, streams: tuple[str, ...]) -> list[int]:
        """Tokens on each rank where the streams' shards stand side by side."""
        each = [shard_sizes(self.lengths[stream], self.ranks.size()) for stream in streams]
        return [sum(sizes) for sizes in zip(*each, strict=True)]

    def key_mask(self, streams: tuple[str, ...], like: Tensor) -> Tensor:
        """The mask [B, 1, 1, S], true where a key is real, over the keys of all ranks in rank order."""
        if streams not in self._key_masks:
            whole = [
                self.masks[name].bool()
                if name in self.masks
                else torch.ones((len(like), self.lengths[name]), dtype=torch.bool, device=like.device)
                for name in streams
            ]
            shards = [mask.tensor_split(self.ranks.size(), dim=1) for mask in whole]
            keep = torch.cat([part for rank in zip(*shards, strict=True) for part in rank], dim=1)
            self._key_masks[streams] = keep[:, None, None, :]
        return self._key_masks[streams]

    def additive_key_mask(self, streams: tuple[str, ...], like: Tensor) -> Tensor:
        """The same mask as numbers to add to the scores."""
        if streams not in self._additive_masks:
            # The lowest number instead of minus infinity: a part whose keys are all masked merges with weight zero.
            lowest = torch.full((), torch.finfo(like.dtype).min, dtype=like.dtype, device=like.device)
            self._additive_masks[streams] = torch.where(self.key_mask(streams, like), lowest.new_zeros(()), lowest)
        return self._additive_masks[streams]


@dataclass(frozen=True)
class LayerContext:
    """What one attention layer knows: the sequence it is part of, and which streams attend to each other in it."""

    name: str
    sequence: Sequence
    streams: tuple[str, ...]
