"""Cut a sequence in time: its patches run one after the other, and attend to remembered keys and values of all.

The mesh may cut it over ranks, too: each rank then has a shard of every patch.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from ditmesh.parallel.context.sequence import LayerContext, ShardedSequence, Streams
from ditmesh.runtime.collectives import all_gather, never_compiled, shard_sizes

# B batch, S sequence (s of this forward), h heads of this rank, D head dim


@dataclass
class Memory:
    """What a branch remembers of its steps so far.

    Attributes:
        shapes: those of the tensors that the forwards were given.
        steps: how many steps there were.
        layers: keys and values [S, B, 2, h, D] of whole streams, end to end, by layer and sample.
        forms: the forms of what a stage takes from others in each patch, by the block that made it.
    """

    shapes: Any
    steps: int = 0
    layers: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    forms: dict[int, dict[int, dict[str, Tensor]]] = field(default_factory=dict)


def patch_of(length: int, patches: int, patch: int) -> range:
    """The tokens of a patch: as even as can be, the longer ones first.

    10 tokens in 4 patches: 0 1 2 | 3 4 5 | 6 7 | 8 9
    """
    sizes = shard_sizes(length, patches)
    return range(sum(sizes[:patch]), sum(sizes[: patch + 1]))


@dataclass
class Patches(ShardedSequence):
    """The streams of one transformer, run whole or in patches.

    A stream that is put together after the last block is cut into patches. A stream that is put together before the
    blocks runs whole with every patch. Any other (the text) runs whole with the first patch; the others find its keys
    and values in the memory.

    Attributes:
        patches: how many patches a step has.
        title: the transformer's name, for errors.
        patch: the patch that runs; None while the streams run whole.
        reached_end: whether the forward under way has run the last block.
    """

    patches: int = 1
    title: str = ""
    remembers: ClassVar[bool] = True
    why: ClassVar[str] = "num_pipeline_patch"
    product: ClassVar[str] = "num_pipeline_patch times ring_size and ulysses_size"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.patch: int | None = None
        self.reached_end = False
        self._memory, self._remembers = Memory(None), False
        self._attended: set[tuple[str, int]] = set()
        self._at_end: set[str] = set()
        self._before: set[str] = set()
        self._whole: list[Tensor] = []  # what the patches of a step are put together in
        self._gathers = 0

    @property
    def degree(self) -> int:
        return self.ranks.size() * (1 if self.patch is None else self.patches)

    def run_whole(self, memory: Memory, remembers: bool) -> None:
        """The next forward is not cut. It ``remembers`` keys and values if the one after it will be cut."""
        self.patch, self._memory, self._remembers = None, memory, remembers

    def run_patches(self, memory: Memory) -> Iterator[int]:
        """The next forwards run one patch each.

        Raises:
            ValueError: the steps before have shown that the model needs more than a patch somewhere.
        """
        if not self._at_end:
            raise ValueError(
                f"{self.title}: no fact sheet says where its sequence is put together again, so it cannot be cut into "
                f"patches; pass num_pipeline_patch=1 to run every step whole."
            )
        if midway := self._at_end & self._before:
            raise ValueError(
                f"{self.title} puts its {min(midway)} stream together in the midst of its blocks, where one patch of "
                f"it is there; pass num_pipeline_patch=1, or use ulysses_size or tp_size instead of pp_size."
            )
        self._whole = []
        for patch in range(self.patches):
            self.patch, self._memory = patch, memory
            yield patch
        self.patch = None

    def begin(self) -> None:
        super().begin()
        self.reached_end, self._gathers = False, 0
        self._attended.clear()

    def end(self) -> None:
        """The last block has run. What is put together from now on is at the end."""
        self.reached_end = True

    def window(self, stream: str) -> range:
        length = self.lengths[stream]
        if self.patch is None or stream == "" or stream in self._before:
            return range(length)
        if stream not in self._at_end:
            return range(0 if self.patch else length)
        return patch_of(length, self.patches, self.patch)

    def gather(self, x: Tensor, dim: int, stream: str) -> Tensor:
        if self.patch is None:
            (self._at_end if self.reached_end else self._before).add(stream)
            return self._of_all_ranks(x, dim, stream)
        if stream in self._before:
            return self._of_all_ranks(x, dim, stream)
        if self._gathers == len(self._whole):
            shape = list(x.shape)
            shape[dim] = self.lengths[stream]
            self._whole.append(x.new_zeros(shape))
        whole, window = self._whole[self._gathers], self.window(stream)
        self._gathers += 1
        whole.narrow(dim, window.start, len(window)).copy_(self._of_all_ranks(x, dim, stream))
        return whole.clone()

    def _of_all_ranks(self, x: Tensor, dim: int, stream: str) -> Tensor:
        """The whole of this forward's window of a stream, without stand-ins."""
        if self.ranks.size() > 1:
            return super().gather(x, dim, stream)
        return x.narrow(dim, 0, len(self.window(stream)))

    @never_compiled
    def remember(self, layer: LayerContext, kv: Tensor) -> Tensor:
        """Keys and values of this forward -> keys and values to attend to, in the streams' order, [S, B, 2, h, D].

        First, those of this patch take the place of the last step's (arXiv 2405.14430, section 4.1). The ranks that
        trade heads hold ``kv`` already; the others of the ring give theirs.
        """
        place = layer.name, layer.sample
        if place in self._attended:
            raise ValueError(
                f"{self.title}: {layer.name} attends twice in a forward, and has a memory for one; pass "
                f"num_pipeline_patch=1, or use ulysses_size or tp_size instead of pp_size."
            )
        self._attended.add(place)
        if self.ring.size() > 1:
            kv = all_gather(kv, 0, [sum(row) for row in self.rows(layer.keys)], self.ring)
        length = sum(self.lengths[stream] for stream in layer.keys)
        whole = kv.new_empty((length, *kv.shape[1:])) if self.patch is None else self._memory.layers[place]
        assert len(whole) == length, "a step has other lengths than the one before"
        whole.index_copy_(0, self._order(layer.keys, kv.device), kv.detach())
        if self._remembers and self.patch is None:
            self._memory.layers[place] = whole
        return whole

    def _order_keys(self, mask: Tensor, keys: Streams) -> Tensor:
        return mask
