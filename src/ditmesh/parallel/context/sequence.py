"""How the sequences of one transformer are cut over the ranks in the forward under way; every layer reads it."""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from ditmesh.runtime.collectives import all_gather, never_compiled, shard_sizes
from ditmesh.runtime.mesh import Mesh, sequence_mesh

Streams = tuple[str, ...]


@dataclass
class ShardedSequence:
    """The streams of one transformer: whole lengths, and padding masks if a stream has one.

    Whoever cuts a tensor records its whole length here, so that no rank ever has to ask another for a size. Masks are
    known whole on every rank, so no mask is ever sent.

    Attributes:
        remembers: it is cut in time too, and attention sees keys and values of earlier forwards.
        why, product: the options that make it so, and what the number of shards is made of.
    """

    mesh: Mesh
    lengths: dict[str, int] = field(default_factory=dict)
    masks: dict[str, Tensor] = field(default_factory=dict)
    remembers: ClassVar[bool] = False
    why: ClassVar[str] = "ring_size and ulysses_size"
    product: ClassVar[str] = "ring_size times ulysses_size"

    def __post_init__(self) -> None:
        self.ring, self.ulysses = self.mesh["ring"], self.mesh["ulysses"]
        self.ranks = sequence_mesh(self.mesh)
        self._orders: dict[tuple[Streams, torch.device], Tensor] = {}
        self._reordered: dict[tuple[Streams, Streams, torch.dtype | None], tuple[Tensor, Tensor]] = {}
        self._key_masks: dict[tuple[Streams, torch.dtype | None], Tensor] = {}
        self.unseen: set[str] = set()
        self._maybe_longer: set[str] = set()  # streams of which only tensors of one position were seen so far

    @property
    def degree(self) -> int:
        """Into how many shards it is cut."""
        return self.ranks.size()

    def window(self, stream: str) -> range:
        """The positions of a stream that the forward under way runs, on all ranks together."""
        return range(self.lengths[stream])

    def own(self, stream: str) -> range:
        """This rank's positions in a stream."""
        sizes, rank = self.shards((stream,)), self.ranks.get_local_rank()
        return self.window(stream)[sum(sizes[:rank]) : sum(sizes[: rank + 1])]

    def begin(self) -> None:
        """Forget the last forward."""
        for memory in (self.lengths, self.masks, self.unseen, self._orders, self._reordered, self._key_masks):
            memory.clear()
        self._maybe_longer.clear()

    def forget(self, stream: str) -> None:
        """Forget one stream: another sequence takes its name."""
        self.unseen.discard(stream)
        for memory in (self.lengths, self.masks):
            memory.pop(stream, None)
        for memory in (self._orders, self._reordered, self._key_masks):
            memory.clear()

    def cut(self, x: Tensor, dim: int, stream: str) -> Tensor:
        """This rank's shard of a tensor along a stream.

        Where a stream has fewer tokens than ranks, a rank without one holds a copy of the first instead, since models
        do not run on no tokens; attention and ``gather`` leave it out. A tensor of one position along a longer stream
        holds for all of its tokens, and stays whole, whichever of its tensors comes first.

        Raises:
            ValueError: the tensor is not as long as the stream's other tensors.
        """
        if x.shape[dim] == 1:
            if stream not in self.lengths:
                self.lengths[stream] = 1
                self._maybe_longer.add(stream)
            return x
        self._forget_length_of_one(stream)
        length = self.lengths.setdefault(stream, x.shape[dim])
        if x.shape[dim] != length:
            raise ValueError(f"a tensor has {x.shape[dim]} positions along the {stream} stream, which has {length}.")
        own = self.own(stream)
        return (x.narrow(dim, own.start, len(own)) if own or not length else x.narrow(dim, 0, 1)).contiguous()

    def _forget_length_of_one(self, stream: str) -> None:
        if stream in self._maybe_longer:
            self._maybe_longer.remove(stream)
            del self.lengths[stream]

    def cut_packed(self, x: Tensor, dim: int, streams: Streams) -> Tensor:
        """This rank's shard of each of several streams that lie end to end; one of them may be new, or "": uncut."""
        if "" not in streams and x.shape[dim] != sum(self.lengths.get(name, 0) for name in streams):
            for name in streams:
                self._forget_length_of_one(name)
        parts = zip(self._parts(x, dim, streams, self.lengths), streams, strict=True)
        return torch.cat([self.cut(part, dim, stream) if stream else part for part, stream in parts], dim)

    def gather_packed(self, x: Tensor, dim: int, streams: Streams) -> Tensor:
        """The whole of streams that lie end to end, of which each rank holds shards; "" is whole already."""
        held = {stream: self.held((stream,))[0][0] for stream in streams if stream}
        parts = zip(self._parts(x, dim, streams, held), streams, strict=True)
        return torch.cat([self.gather(part, dim, stream) if stream else part for part, stream in parts], dim)

    def _parts(self, x: Tensor, dim: int, streams: Streams, lengths: dict[str, int]) -> tuple[Tensor, ...]:
        """A tensor's part of each stream; the length of one of them is what the others leave."""
        known = {name: lengths[name] for name in streams if name and name in lengths}
        new = [name for name in streams if name not in known]
        assert len(new) <= 1, f"the lengths of {new} are not known yet"
        rest = x.shape[dim] - sum(known.values())
        if "" in streams:
            self.lengths[""] = rest
        return x.split([known.get(name, rest) for name in streams], dim)

    def record_mask(self, stream: str, mask: Tensor, unseen: bool) -> None:
        """Remember a stream's padding mask; if it is ``unseen``, attention applies it without being given it.

        Raises:
            ValueError: an unseen mask with padding before a token: the model would move its tokens.
        """
        if unseen and self.masks.get(stream) is not mask:
            if (mask.int().diff(dim=-1) > 0).any():
                raise ValueError(f"the {stream} stream has padding before a token; put the padding at its end.")
            self.unseen.add(stream)
        self.masks[stream] = mask

    def remember(self, layer: "LayerContext", kv: Tensor) -> Tensor:
        """Keys and values of this forward -> those to attend to."""
        return kv

    def gather(self, x: Tensor, dim: int, stream: str) -> Tensor:
        """The whole of a tensor that each rank holds a shard of."""
        sizes = self.shards((stream,))
        own = x.narrow(dim, 0, sizes[self.ranks.get_local_rank()])
        return all_gather(own, dim, sizes, self.ranks).contiguous()  # as the module that made it returned it

    def count(self, tokens: int, stream: str) -> int:
        """How many of the first ``tokens`` of a stream this rank holds; if they are all, a stand-in counts too.

        The first that is heard of a stream is its length.
        """
        if tokens > 1:
            self._forget_length_of_one(stream)
        if tokens == self.lengths.setdefault(stream, tokens):
            return self.held((stream,))[0][0]
        own = self.own(stream)
        return max(min(tokens, own.stop) - own.start, 0)

    def held(self, streams: Streams) -> list[tuple[int, bool]]:
        """How many tokens of each stream this rank holds, and whether they are a share of its own or a stand-in."""
        own = [len(self.own(stream)) for stream in streams]
        stand_in = [min(self.lengths[stream], 1) for stream in streams]
        return [(max(tokens, least), tokens >= least) for tokens, least in zip(own, stand_in, strict=True)]

    def shards(self, streams: Streams) -> list[int]:
        """Tokens on each rank where the streams' shards stand side by side."""
        self._maybe_longer.difference_update(streams)  # who asks relies on the answer
        each = [shard_sizes(len(self.window(stream)), self.ranks.size()) for stream in streams]
        return [sum(sizes) for sizes in zip(*each, strict=True)]

    def rows(self, streams: Streams) -> list[list[int]]:
        """The same, a list for each rank of the ring: the ranks that trade heads with each other."""
        shards, degree = self.shards(streams), self.ulysses.size()
        return [shards[i : i + degree] for i in range(0, len(shards), degree)]

    @never_compiled
    def mask(self, given: Tensor | None, queries: Streams, keys: Streams, additive: torch.dtype | None) -> Tensor:
        """The mask of this rank's row of the ring, [B, 1, S_q or 1, S_k], with the keys of all ranks in rank order.

        ``given`` is whole, in the order of the streams, unless the streams' padding masks were recorded when they were
        cut. Worked out once a forward where the layers share a mask, as numbers to add to the scores if ``additive``.
        """
        whole = self._recorded(keys, given) if set(keys) & set(self.masks) else given
        assert whole is not None
        known, reordered = self._reordered.get((queries, keys, additive), (None, whole))
        if known is not whole:
            reordered = self._reorder(whole, queries, keys, additive)
            self._reordered[queries, keys, additive] = (whole, reordered)
        return reordered

    def _recorded(self, streams: Streams, given: Tensor | None) -> Tensor:
        # A mask of every token against every other stands for the product of their padding masks, in its own dtype.
        product = given.dtype if given is not None and given.shape[-2] > 1 else None
        if (streams, product) not in self._key_masks:
            like = next(self.masks[name] for name in streams if name in self.masks)
            ones = [
                torch.ones((len(like), self.lengths[name]), dtype=torch.bool, device=like.device) for name in streams
            ]
            whole = [self.masks.get(name, one).bool() for name, one in zip(streams, ones, strict=True)]
            keys = torch.cat(whole, dim=1)[:, None, None]
            self._key_masks[streams, product] = keys if product is None else (keys & keys.mT).to(product)
        return self._key_masks[streams, product]

    def _reorder(self, mask: Tensor, queries: Streams, keys: Streams, additive: torch.dtype | None) -> Tensor:
        mask = self._order_keys(mask, keys)
        if mask.shape[-2] > 1:
            rows = [sum(row) for row in self.rows(queries)]
            here = self._order(queries, mask.device).split(rows)[self.ring.get_local_rank()]
            mask = mask.index_select(-2, here)
        if additive is None:
            return mask
        # The lowest number instead of minus infinity: a part whose keys are all masked merges with weight zero.
        lowest = torch.finfo(additive).min
        if mask.dtype == torch.bool:
            return torch.zeros(mask.shape, dtype=additive, device=mask.device).masked_fill(~mask, lowest)
        return mask.to(additive).clamp(min=lowest)

    def _order_keys(self, mask: Tensor, keys: Streams) -> Tensor:
        """The columns in the order in which attention has the keys."""
        return mask.index_select(-1, self._order(keys, mask.device))

    def _order(self, streams: Streams, device: torch.device) -> Tensor:
        """Positions in the streams laid end to end, in the order in which the ranks hold them."""
        if (streams, device) not in self._orders:
            lengths = [self.lengths[stream] for stream in streams]
            positions = torch.arange(sum(lengths), device=device).split(lengths)
            windows = [x[at.start : at.stop] for x, at in zip(positions, map(self.window, streams), strict=True)]
            shards = [x.tensor_split(self.ranks.size()) for x in windows]
            self._orders[streams, device] = torch.cat([part for rank in zip(*shards, strict=True) for part in rank])
        return self._orders[streams, device]


@dataclass(frozen=True)
class LayerContext:
    """What one attention layer knows: the sequence it is part of, and the streams of its queries and of its keys.

    ``sample`` is the one it attends for, if it takes the samples of a batch one after the other.
    """

    name: str
    sequence: ShardedSequence
    queries: Streams
    keys: Streams
    sample: int = 0

    def present(self) -> Self:
        """The layer without the optional streams ("name?") that the forward under way does not have."""

        def known(streams: Streams) -> Streams:
            names = [(stream.removesuffix("?"), stream.endswith("?")) for stream in streams]
            return tuple(name for name, optional in names if name in self.sequence.lengths or not optional)

        return replace(self, queries=known(self.queries), keys=known(self.keys))
