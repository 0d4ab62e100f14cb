"""Blocks that are alike run once or twice; after that they are counted.

Of a list of blocks with the same weights that are given the same shapes, the first runs, since it may do what the
others find done (put a mask in order), and the second for all that follow. Nobody need run twice.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ditmesh.planner.counting import Tally
from ditmesh.planner.memory import Memory, Span
from ditmesh.upstream.hollow import Hollow, Outline, blank
from ditmesh.upstream.modules import intercept_call, override
from ditmesh.upstream.trees import tensors, tree_flatten, tree_unflatten


@dataclass
class Record:
    """What one call of a block did, and the form of what it returned."""

    tally: Tally = field(default_factory=Tally)
    span: Span = field(default_factory=Span)
    outline: Outline | None = None
    kept: int = 0


class Repeats:
    """Stands in for the forwards of blocks.

    Attributes:
        tally: what runs now is counted there.
        memory: and followed there.
        stage: something that changes when blocks begin to do another thing with the same shapes.
        keeps: what blocks keep of a call stays until the end, as PipeFusion's keys and values do.
        held: the bytes of that.
    """

    def __init__(self, memory: Memory):
        self.tally, self.memory = Tally(), memory
        self.stage: object = None
        self.keeps, self.held = False, 0
        self._kept: dict[Any, list[Any]] = {}
        self._records: dict[Any, Record] = {}
        self._leaders: dict[Any, nn.Module] = {}

    def stand_in(self, blocks: Iterable[nn.Module], undo: ExitStack) -> None:
        """Let alike blocks of a list be run for each other."""
        for block in blocks:
            override(block, "forward", self._caller(block, block.forward), undo)

    def _caller(self, block: nn.Module, run: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            leaves, key = self._asked(block, args, kwargs)
            key = (key, self._leaders.setdefault(key, block) is block)
            return self._answer(block, key, leaves, run, args, kwargs)

        return forward

    def stand_in_for_calls(self, model: nn.Module, notice: Callable[[], None], undo: ExitStack) -> None:
        """Let the calls of a model, hooks and all, from the third on be repeats of the second; each is noticed."""
        calls: Counter[Any] = Counter()

        def call(*args: Any, **kwargs: Any) -> Any:
            notice()
            leaves, key = self._asked(model, args, kwargs)
            calls[key] += 1
            return self._answer(model, (key, calls[key] == 1), leaves, run, args, kwargs)

        run = intercept_call(model, call, undo)

    def _asked(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[list[Any], Any]:
        leaves, tree = tree_flatten((args, kwargs))
        return leaves, (_kind(module), self.stage, tuple(map(_form, leaves)), str(tree))

    def _answer(self, module: nn.Module, key: Any, given: list[Any], run: Any, args: Any, kwargs: Any) -> Any:
        record = self._records.get(key)
        if record is None or record.outline is None:
            return self._run(key, given, run, args, kwargs)
        return self._repeat(record, (id(module), key), given)

    def _run(self, key: Any, given: list[Any], run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        record, outside = Record(), self.tally
        self.tally = record.tally
        try:
            with self.memory.span() as record.span:
                output = run(*args, **kwargs)
        finally:
            self.tally = outside
            outside.add(record.tally)
        leaves, tree = tree_flatten(output)
        record.outline = Outline.of(leaves, tree, given)
        if record.outline is not None:
            record.kept = max(record.span.left - record.outline.size, 0)
            self.held += record.kept * self.keeps
        self._records[key] = record
        return output

    def _repeat(self, record: Record, who: Any, given: list[Any]) -> Any:
        assert record.outline is not None
        self.tally.add(record.tally)
        self.memory.rises(record.span.peak)
        leaves = record.outline.again(given)
        for x in tensors(leaves):
            self.memory.add(x)
        if record.kept:
            self.memory.add(held := blank(record.kept))
            self.held += record.kept * self.keeps
            self._kept[who] = [*(self._kept.get(who, []) if self.keeps else []), held]
        return tree_unflatten(leaves, record.outline.tree)


def _kind(block: nn.Module) -> Any:
    """What makes blocks alike: their modules and the shapes of their weights."""
    return tuple(
        (name, type(module), *((key, x.shape, x.dtype) for key, x in module.named_parameters(recurse=False)))
        for name, module in block.named_modules()
    )


def _form(x: Any) -> Any:
    """What an argument says of what is done with it."""
    if isinstance(x, Tensor):
        return isinstance(x, Hollow), tuple(x.shape), x.stride(), x.dtype
    return x if isinstance(x, bool | int | str | None) else type(x)
