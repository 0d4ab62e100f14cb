"""A chain of blocks: run the first; if they do what they did before, leave out the middle and add what that added.

All ranks that share a forward decide as one: each gathers the others' sums, and adds the same numbers up in the same
order. No shard, however different, makes one rank skip a collective that another waits in.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ditmesh.cache.decision import Record, settle
from ditmesh.cache.forecast import Forecast, build_forecast, is_forecast
from ditmesh.cache.tokens import own_tokens
from ditmesh.config import CalibratorConfig, DBCacheConfig, ParamsModifier
from ditmesh.runtime.collectives import all_gather, never_compiled
from ditmesh.runtime.mesh import Axis
from ditmesh.upstream.modules import Link, Streams
from ditmesh.upstream.session import Branch, Session

MAIN = "hidden_states"  # the stream that decides, where a chain has several
Configs = tuple[DBCacheConfig, CalibratorConfig | None]


@dataclass
class State:
    """What one branch keeps of its last computed step, and of the step under way.

    Attributes:
        origin: the step of the request that counts as its first.
        forward: the one under way.
        probe: what the first blocks added at the last computed step.
        stored: that step's middle blocks have been run to the end since.
        start, entry: copies of what goes into the first blocks, and into the middle ones, since some models change
            their tensors in place; in a cached step ``entry`` is what comes out of the middle ones.
        decided: this step has been found to be computed, or cached (``hit``).
    """

    shapes: Any
    origin: int = 0
    refreshed: bool = False
    forward: int = -1
    record: Record = field(default_factory=Record)
    probe: Tensor | None = None
    stored: bool = False
    forecasts: dict[str, Forecast] = field(default_factory=dict)
    start: Tensor | None = None
    entry: Streams = field(default_factory=dict)
    decided: bool = False
    hit: bool = False


class Chain:
    """One chain of blocks and its cache."""

    def __init__(
        self,
        name: str,
        blocks: Sequence[Link],
        modifier: ParamsModifier,
        reaches_back: bool,
        session: Session,
        mesh: Axis | None,
    ):
        self.name, self.links, self.modifier, self.session, self.mesh = name, blocks, modifier, session, mesh
        self.reaches_back = reaches_back
        streams = [name for name in blocks[0].returns if name]
        self.main = MAIN if MAIN in streams else streams[0]
        self.own = own_tokens(blocks[0].block, several=len(streams) > 1)
        self.forget()

    def configure(self, configs: Configs) -> None:
        """Take other settings.

        Raises:
            ValueError: they compute more blocks than there are, or last ones that take what left out ones return.
        """
        self.config, self.calibrator = configs
        first, last, count = self.config.Fn_compute_blocks, self.config.Bn_compute_blocks, len(self.links)
        if first + last > count:
            raise ValueError(
                f"Fn_compute_blocks={first} and Bn_compute_blocks={last} are more than the {count} blocks of "
                f"{self.name}; use Fn_compute_blocks=1 and Bn_compute_blocks=0, or any two that add up to {count} or "
                f"less."
            )
        if self.reaches_back and last > first:
            raise ValueError(
                f"Bn_compute_blocks={last} is more than Fn_compute_blocks={first}, and each of the last {last} blocks "
                f"of {self.name} takes what the one as far from the start returned; use Bn_compute_blocks={first}."
            )
        self.first, self.last = first, count - last

    def forget(self) -> None:
        """Begin a request."""
        self.states: dict[Branch, State] = {}
        self.tested: tuple[int, float] | None = None  # the last step that was tested, and the difference found

    def caller(self, position: int) -> Callable[..., Any]:
        """The forward of a block in the chain."""
        link = self.links[position]
        # A compiled block decides in Python, and compiles what it runs.
        enter, leave = never_compiled(self.enter), never_compiled(self.leave)
        left_out = never_compiled(self.left_out)

        @torch.compiler.disable(recursive=False)
        def forward(*args: Any, **kwargs: Any) -> Any:
            if enter(position, args, kwargs):
                output = link.run(*args, **kwargs)
                leave(position, output)
                return output
            return left_out(position, args, kwargs)

        return forward

    def skips(self, position: int) -> bool:
        """Whether a block is left out in this step, or may be: until the first blocks have run, nobody knows."""
        state = self.states.get(self.session.branch)
        return self.first <= position < self.last and (state is None or state.hit or not state.decided)

    def enter(self, position: int, args: tuple[object, ...], kwargs: dict[str, Any]) -> bool:
        """Take in what a block is given; whether it runs."""
        state = self.states.get(self.session.branch)
        if state is None or state.forward != self.session.forward:  # the first block, unless the model leaves it out
            state = self._begin_step()
        if position == 0:
            state.start = _copy(self.links[0].streams(args, kwargs)[self.main])
        if position == self.first:
            entry = self.links[position].streams(args, kwargs)
            # The model itself may leave out the block before, and then nothing is decided.
            if state.hit:
                state.entry = self._foresee(state, entry)
            elif state.decided:
                state.entry = {name: _copy(x) for name, x in entry.items()}
        return not (state.entry and state.hit and self.first <= position < self.last)

    def left_out(self, position: int, args: tuple[object, ...], kwargs: dict[str, Any]) -> Any:
        """What a block returns that does not run: the last of them for all of them."""
        link, state = self.links[position], self.states[self.session.branch]
        return link.pack(state.entry if position == self.last - 1 else link.streams(args, kwargs))

    def leave(self, position: int, output: object) -> None:
        """Take in what a block that ran returned."""
        if position not in (self.first - 1, self.last - 1):
            return
        link, state = self.links[position], self.states[self.session.branch]
        if position == self.first - 1 and state.start is not None:
            self._decide(state, state.start, link.unpack(output)[self.main])
        if position == self.last - 1 and not state.hit:
            self._store(state, link.unpack(output))

    def _begin_step(self) -> State:
        branch, shapes, step = self.session.branch, self.session.shapes, self.session.step
        state = self.states.setdefault(branch, State(shapes))
        hint, once = self.config.force_refresh_step_hint, self.config.force_refresh_step_policy == "once"
        if hint is not None and step - state.origin >= hint and not (once and state.refreshed):
            state = self.states[branch] = State(shapes, origin=step, refreshed=True)
        if state.shapes != shapes:
            state.shapes, state.stored, state.forecasts = shapes, False, {}
        state.record.begin(step - state.origin)
        state.forward, state.start, state.entry = self.session.forward, None, {}
        state.decided = state.hit = False
        return state

    def _decide(self, state: State, before: Tensor, after: Tensor | None) -> None:
        assert after is not None, "the model drops the stream that decides"
        probe, record = after.detach() - before, state.record
        hit = settle(self.config, record) if state.stored else False
        if hit is None:
            record.differences[record.step] = self._difference(state.probe, probe)
            hit = record.differences[record.step] < self.config.residual_diff_threshold
        record.count(hit)
        state.decided, state.hit, state.start = True, hit, None
        if not hit:
            state.probe, state.stored = probe, False

    def _difference(self, before: Tensor | None, now: Tensor) -> float:
        """mean |before - now| / mean |before| over all tokens of all ranks."""
        if self.tested and self.tested[0] == self.session.step and not self.config.cfg_diff_compute_separate:
            return self.tested[1]
        assert before is not None
        sums = [self.own(x).abs().sum(dtype=torch.float64) for x in (before - now, before)]
        moved, size = _total(torch.stack(sums), self.session.halves_mesh() or self.mesh).tolist()
        difference = moved / size if size else math.inf
        self.tested = self.session.step, difference
        return difference

    def _foresee(self, state: State, entry: Streams) -> Streams:
        """What comes out of the middle blocks, for what goes into them."""
        out: Streams = {}
        for name, forecast in state.forecasts.items():
            x, value = entry[name], forecast.at(state.record.step)
            like = entry[self.main] if x is None else x
            assert like is not None
            out[name] = (
                value.to(like.dtype, copy=True) if x is None or not self._adds(name) else (x + value).to(like.dtype)
            )
        return out

    def _store(self, state: State, out: Streams) -> None:
        """Remember what the middle blocks made of what went in."""
        for name, x in state.entry.items():
            y = _copy(out[name])
            if y is None:
                continue
            if name not in state.forecasts:
                main = name == self.main
                state.forecasts[name] = build_forecast(self.calibrator, main, lambda x: _total(x, self.mesh))
            state.forecasts[name].update(state.record.step, y if x is None or not self._adds(name) else y.sub_(x))
            state.stored = True
        state.entry = {}

    def _adds(self, stream: str) -> bool:
        """Whether it is what the blocks add that is kept, or what comes out of them."""
        calibrator = self.calibrator
        if calibrator is None or not is_forecast(calibrator, stream == self.main):
            return True
        return calibrator.calibrator_cache_type == "residual"


def _copy(x: Tensor | None) -> Tensor | None:
    """A copy in float32, or in the tensor's own type if that is wider."""
    return None if x is None else x.detach().to(torch.promote_types(x.dtype, torch.float32), copy=True)


def _total(x: Tensor, mesh: Axis | None) -> Tensor:
    """The sum over the ranks, the same to the bit on all of them; tensor-parallel ranks hold the same numbers."""
    return x if mesh is None else all_gather(x[None], 0, [1] * mesh.size(), mesh).cpu().sum(0)
