"""Shard the weights that the ranks of one picture would each hold whole: a block is put together when it runs.

    gather:   0 1 2 3
    run:        0 1 2 3

Ranks that share a forward run the same blocks in the same order. Two branches of guidance may not: one leaves out a
block that the other runs, or does not come at all. So where a layout has both, ranks say before each block which one
they are at, and go through the blocks in order: who is ahead, or done, gathers with those behind.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers.loaders.peft import PeftAdapterMixin
from torch import nn

from ditmesh.config import holding
from ditmesh.pipeline import Plan, components
from ditmesh.runtime.collectives import all_gather, never_compiled
from ditmesh.runtime.memory import give_back
from ditmesh.runtime.mesh import Mesh
from ditmesh.spec import ModelSpec
from ditmesh.upstream.fsdp import Place, Shared, rows, share
from ditmesh.upstream.lora import is_dora
from ditmesh.upstream.modules import (
    SKIPS,
    chain,
    check_present,
    expand,
    held,
    intercept_call,
    links,
    override,
    own_weights,
)
from ditmesh.upstream.process_groups import device_of_messages
from ditmesh.upstream.quantized import check_quantized, take_apart
from ditmesh.upstream.quantized_shares import SharedQuantized, whole_blocks
from ditmesh.upstream.request import Requests
from ditmesh.upstream.saving import SHARES

Weights = Shared | SharedQuantized
NONE = -1  # no block
DONE = 1 << 40  # more than any block's number


class Sharing:
    """The blocks of all models by number, and what is gathered of them.

    It is made before anything wraps the forwards of blocks that may leave them out: a block that does not run is not
    gathered. It cuts the weights (``cut``) when every rank is left with the blocks that it runs.

    Raises:
        ValueError: quantized weights of a kind that is not known.
    """

    def __init__(self, plan: Plan, mesh: Mesh, undo: ExitStack):
        self._plan, self._undo = plan, undo
        self._everyone = mesh.along(*holding("whole", "shards"), purpose="weights")
        self._same_shard = mesh.along(*holding("whole"), purpose="weights")
        self._asks = mesh["cfg"].size() > 1
        self._ahead = NONE
        self._blocks: list[nn.Module] = []
        self._next: list[int] = []
        self._weights: list[list[Weights]] = []
        self._new: set[int] = set()  # blocks that have not run yet
        for model, spec in plan.models:
            for run in _runs(model, spec):
                self._number([block for block in run if not any(block is known for known in self._blocks)])
        # What tensor parallelism has cut by now.
        modules = [module for block in self._blocks for module in block.modules()]
        self._sharded = {(id(module), name) for module in modules for name in held(module, SHARES, {})}

    def _number(self, blocks: list[nn.Module]) -> None:
        for block in blocks:
            check_quantized(type(block).__name__, block, "shard_weights", "leave shard_weights out.")
            number = len(self._blocks)
            self._blocks.append(block)
            self._next.append(NONE if block is blocks[-1] else number + 1)
            self._weights.append([])
            override(block, "forward", self._caller(number, block.forward), self._undo)

    def cut(self, requests: Requests | None) -> None:
        """Cut the weights of the blocks that run here.

        Raises:
            ValueError: weights that cannot be cut, or none that ranks would hold twice.
        """
        kept = _kept_whole(self._plan)
        for model, _ in self._plan.models:
            check_present(model)
        for number, block in enumerate(self._blocks):
            plain, quantized = self._places(block, kept)
            weights = self._weights[number]
            weights += [share(plain, self._undo)] if plain else []
            weights += [SharedQuantized(quantized, self._undo)] if quantized else []
            if weights:
                self._new.add(number)
                override(block, "apply", _changing(weights, block.apply), self._undo)
        if not any(self._weights):
            titles = ", ".join(spec.title for _, spec in self._plan.models)
            raise ValueError(
                f"shard_weights: ranks of {self._plan.parallelism} hold no weights of a block of {titles} twice; leave "
                f"it out, or use ulysses_size or ring_size."
            )
        for model, _ in self._plan.models:
            if isinstance(model, PeftAdapterMixin):
                override(model, "load_lora_adapter", self._loading(model.load_lora_adapter), self._undo)
                override(model, "add_adapter", self._loading(model.add_adapter), self._undo)
        self._undo.callback(self.rest)
        if requests is not None:
            requests.at_end.append(self.rest)
            requests.at_failure.append(self.drop)
        for model, _ in self._plan.models if self._asks else []:
            self._accompany(model)

    def _places(self, block: nn.Module, kept: set[int]) -> tuple[list[Place], list[Place]]:
        """Which weights of a block are cut, and where: plain ones, and quantized ones."""
        plain: list[Place] = []
        quantized: list[Place] = []
        for module, name, weight in own_weights(block):
            axis = self._same_shard if (id(module), name) in self._sharded else self._everyone
            if id(weight) in kept or not weight.numel() or axis.size() == 1:
                continue
            if (apart := take_apart(weight)) is not None:
                shard = whole_blocks(apart, axis)
                quantized += [] if shard is None else [Place(module, name, shard)]
            elif weight.ndim and weight.is_contiguous() and len(weight) >= axis.size():
                plain.append(Place(module, name, rows(len(weight), axis)))
        return plain, quantized

    def _caller(self, number: int, run: Callable[..., Any]) -> Callable[..., Any]:
        gather, free = never_compiled(self._gather), never_compiled(self._free)

        @torch.compiler.disable(recursive=False)
        def forward(*args: Any, **kwargs: Any) -> Any:
            gather(number)
            try:
                return run(*args, **kwargs)
            finally:
                free(number)

        return forward

    def _accompany(self, model: nn.Module) -> None:
        """Let a rank stay with a forward until the others are done with it, or with the one that they run meanwhile."""

        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return run(*args, **kwargs)
            finally:
                self.idle()

        run = intercept_call(model, call, self._undo)

    def _loading(self, load: Callable[..., Any]) -> Callable[..., Any]:
        """Have all weights whole while an adapter is made that is worked out of them."""

        def call(*args: Any, **kwargs: Any) -> Any:
            dora = any(map(is_dora, (*args, *kwargs.values())))
            with _whole(itertools.chain(*self._weights) if dora else ()):
                return load(*args, **kwargs)

        return call

    def _gather(self, number: int) -> None:
        """Have the weights of a block whole, and begin to gather those of the next."""
        if not self._weights[number]:
            return
        following = self._following(number)
        while True:
            asked = self._ask(number, following)
            turn = min(asked)[0]
            self._fetch(turn)
            if turn == number:
                break
            self._free(turn)
        if (ahead := self._of(following)) and len(set(asked)) == 1:
            for weights in ahead:
                weights.start()
            self._ahead = following

    def _of(self, number: int) -> list[Weights]:
        return [] if number == NONE else self._weights[number]

    def _following(self, number: int) -> int:
        """The block that runs next for all that is known by now."""
        following = self._next[number]
        skips = None if following == NONE else held(self._blocks[following], SKIPS)
        return NONE if skips is not None and skips() else following

    def _ask(self, number: int, following: int) -> list[tuple[int, int]]:
        """Which block each rank is at, and which one it will be at."""
        if not self._asks:
            return [(number, following)]
        axis = self._everyone
        mine = torch.tensor([[number, following]], device=device_of_messages(axis.get_group(), axis.device_type))
        return [(at, then) for at, then in all_gather(mine, 0, [1] * axis.size(), axis).tolist()]

    def _fetch(self, number: int) -> None:
        if self._ahead != number:
            self.rest()
        for weights in self._of(number):
            weights.wait()
        self._ahead = NONE

    def _free(self, number: int) -> None:
        for weights in self._of(number):
            weights.free()
        if number in self._new:
            self._new.remove(number)  # what it will gather into again is made now, and lies between what is freed
            if self._everyone.device_type == "cpu":
                give_back()

    def idle(self) -> None:
        """Gather with the ranks that run a forward, until they are done with it."""
        while (turn := min(self._ask(DONE, NONE))[0]) != DONE:
            self._fetch(turn)
            self._free(turn)

    def rest(self) -> None:
        """Let go of what was gathered for a block that did not run."""
        for weights in self._of(self._ahead):
            weights.wait()
            weights.free()
        self._ahead = NONE

    def drop(self) -> None:
        """A request has failed, and with it what was under way."""
        self._ahead = NONE
        for weights in itertools.chain(*self._weights):
            weights.drop()


def _runs(model: nn.Module, spec: ModelSpec) -> Iterator[list[nn.Module]]:
    """The blocks that run one after the other: those of the chain, and those of each list that is no part of it."""
    yield [link.block for link in chain(model, spec)]
    for blocks in spec.blocks:
        if blocks.apart:
            yield [link.block for link in links(model, blocks)]


def _kept_whole(plan: Plan) -> set[int]:
    """Weights that others read, too: those in two places, and those of modules that a block lends to the model."""
    roots = {id(root): root for root in [*components(plan.pipe).values(), *plan.modules]}
    inside = {id(x) for root in roots.values() for x in root.modules() if x is not root}
    seats = Counter(
        id(weight)
        for root in roots.values()
        if id(root) not in inside
        for module in root.modules()
        for weight in module.parameters(recurse=False)
    )
    lent = [
        module
        for model, spec in plan.models
        for one in spec.blocks
        for name in one.lends
        for _, module in expand(model, f"{one.path}.{name}")
    ]
    return {weight for weight, count in seats.items() if count > 1} | {id(x) for m in lent for x in m.parameters()}


@contextmanager
def _whole(weights: Iterable[Weights]) -> Iterator[None]:
    """Have weights whole, and keep a share of what they are in the end."""
    with ExitStack() as stack:
        for one in weights:
            stack.enter_context(one.change())
        yield


def _changing(weights: list[Weights], apply: Callable[..., Any]) -> Callable[..., Any]:
    """``Module.apply`` of a block, by which adapters are fused: what it does to whole weights lasts."""

    def call(function: Callable[[nn.Module], None]) -> Any:
        with _whole(weights), torch.no_grad():
            return apply(function)

    return call
