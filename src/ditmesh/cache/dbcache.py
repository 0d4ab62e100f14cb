"""DBCache: run the first blocks; if they do what they did before, leave out the middle ones and add what those added.

All ranks that share a forward decide as one: each gathers the others' sums, and adds the same numbers up in the same
order. No shard, however different, makes one rank skip a collective that another waits in.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.models.cache_utils import CacheMixin
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from ditmesh.cache.calibrators import Forecast, build_forecast, is_forecast
from ditmesh.cache.decision import Record, settle
from ditmesh.cache.session import Branch, Session
from ditmesh.collectives import all_gather
from ditmesh.config import CalibratorConfig, DBCacheConfig
from ditmesh.modules import Link, Streams, chains
from ditmesh.spec import ModelSpec

MAIN = "hidden_states"  # the stream that decides, where a chain has several
Configs = tuple[DBCacheConfig, CalibratorConfig | None]


@dataclass
class State:
    """What one branch keeps of its last computed step, and of the step under way."""

    shapes: Any
    refreshed: bool = False
    record: Record = field(default_factory=Record)
    probe: Tensor | None = None
    forecasts: dict[str, Forecast] = field(default_factory=dict)
    start: Tensor | None = None
    entry: Streams = field(default_factory=dict)
    hit: bool = False


class Chain:
    """One chain of blocks and its cache."""

    def __init__(self, name: str, links: Sequence[Link], configs: Configs, session: Session, mesh: DeviceMesh | None):
        self.name, self.links, self.session, self.mesh = name, links, session, mesh
        returns = links[0].returns
        self.main = MAIN if MAIN in returns else returns[0]
        self.configure(configs)
        self.forget()

    def configure(self, configs: Configs) -> None:
        """Take other settings.

        Raises:
            ValueError: they compute more blocks than there are.
        """
        self.config, self.calibrator = configs
        first, last, count = self.config.Fn_compute_blocks, self.config.Bn_compute_blocks, len(self.links)
        if first + last > count:
            raise ValueError(
                f"Fn_compute_blocks={first} and Bn_compute_blocks={last} are more than the {count} blocks of {self.name}; "
                f"use Fn_compute_blocks=1 and Bn_compute_blocks=0, or any two that add up to less than {count}."
            )
        self.first, self.last = first, count - last

    def forget(self) -> None:
        """Begin a request."""
        self.states: dict[Branch, State] = {}
        self.tested: tuple[int, float] | None = None  # the last step that was tested, and the difference found

    def call(self, position: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a block of the chain, or leave it out."""
        link = self.links[position]
        if position == 0:
            self._begin_step(link.streams(args, kwargs)[self.main])
        state = self.states[self.session.branch]
        if position == self.first:
            entry = link.streams(args, kwargs)
            state.entry = self._foresee(state, entry) if state.hit else entry
        if state.hit and self.first <= position < self.last:
            return link.pack(state.entry if position == self.last - 1 else link.streams(args, kwargs))
        output = link.run(*args, **kwargs)
        if position == self.first - 1:
            self._decide(state, link.unpack(output)[self.main])
        if position == self.last - 1 and not state.hit:
            self._store(state, link.unpack(output))
        return output

    def _begin_step(self, start: Tensor | None) -> None:
        branch, shapes = self.session.branch, self.session.shapes
        state = self.states.setdefault(branch, State(shapes))
        once = self.config.force_refresh_step_policy == "once"
        if state.record.step + 1 == self.config.force_refresh_step_hint and not (once and state.refreshed):
            state = self.states[branch] = State(shapes, refreshed=True)
        if state.shapes != shapes:
            state.shapes, state.probe, state.forecasts = shapes, None, {}
        state.record.step += 1
        state.start, state.hit = start, False

    def _decide(self, state: State, after: Tensor | None) -> None:
        assert after is not None and state.start is not None
        probe, record = (after - state.start).detach(), state.record
        hit = settle(self.config, record) if state.probe is not None else False
        if hit is None:
            record.differences[record.step] = self._difference(state.probe, probe)
            hit = record.differences[record.step] < self.config.residual_diff_threshold
        state.hit, state.start = hit, None
        record.count(hit)
        if not hit:
            state.probe = probe

    def _difference(self, before: Tensor | None, now: Tensor) -> float:
        """mean |before - now| / mean |before| over all tokens of all ranks."""
        if self.tested and self.tested[0] == self.session.step and not self.config.cfg_diff_compute_separate:
            return self.tested[1]
        assert before is not None
        sums = [(before - now).abs().sum(dtype=torch.float64), before.abs().sum(dtype=torch.float64)]
        moved, size = self._total(torch.stack(sums)).tolist()
        difference = moved / size if size else math.inf
        self.tested = self.session.step, difference
        return difference

    def _total(self, x: Tensor) -> Tensor:
        """The sum over the ranks, the same to the bit on all of them; tensor-parallel ranks hold the same numbers."""
        if self.mesh is None:
            return x
        return all_gather(x[None], 0, [1] * self.mesh.size(), self.mesh).cpu().sum(0)

    def _foresee(self, state: State, entry: Streams) -> Streams:
        """What comes out of the middle blocks, for what goes into them."""
        out: Streams = {}
        for name, x in entry.items():
            forecast = state.forecasts.get(name)
            if x is None or forecast is None:
                out[name] = None
                continue
            value = forecast.at(state.record.step)
            out[name] = (x + value if self._adds(name) else value).to(x.dtype)
        return out

    def _store(self, state: State, out: Streams) -> None:
        """Remember what the middle blocks made of what went in."""
        for name, x in state.entry.items():
            y = out[name]
            if x is None or y is None:
                continue
            if name not in state.forecasts:
                state.forecasts[name] = build_forecast(self.calibrator, name == self.main, self._total)
            y = y.detach().float()
            state.forecasts[name].update(state.record.step, y - x.detach().float() if self._adds(name) else y)
        state.entry = {}

    def _adds(self, stream: str) -> bool:
        """Whether it is what the blocks add that is kept, or what comes out of them."""
        calibrator = self.calibrator
        if calibrator is None or not is_forecast(calibrator, stream == self.main):
            return True
        return calibrator.calibrator_cache_type == "residual"


class DBCache:
    """The cache of one transformer: its request, and its chains of blocks.

    Attributes:
        options: the config of the call, before any modifier.
    """

    def __init__(self, options: Configs, session: Session, chains: list[Chain]):
        self.options, self.session, self.chains = options, session, chains
        session.forgetters += [chain.forget for chain in chains]


def apply_dbcache(
    model: nn.Module,
    spec: ModelSpec,
    options: Configs,
    modified: Sequence[Configs] | None,
    mesh: DeviceMesh | None,
    undo: ExitStack,
) -> DBCache:
    """Cache the steps of a transformer, in place.

    Args:
        model: the transformer ``spec`` describes.
        spec: its fact sheet, or what a ``BlockAdapter`` says of it.
        options: the config and the calibrator of every chain of blocks.
        modified: those of each chain, where they differ.
        mesh: the ranks that share a forward, as one axis; None for one process.
        undo: takes what takes each change back.

    Raises:
        ValueError: more blocks to compute than there are, or settings for another number of chains.
    """
    session = Session(options[0].enable_separate_cfg, options[0].num_inference_steps)
    found = chains(model, spec.blocks)
    each = [options] * len(found) if modified is None else modified
    if len(each) != len(found):
        raise ValueError(
            f"params_modifiers has {len(each)} entries, and {spec.title} has {len(found)} chains of blocks: "
            f"{', '.join(name for name, _ in found)}."
        )
    cached = [
        Chain(name, links, configs, session, mesh) for (name, links), configs in zip(found, each, strict=True)
    ]
    begin = model.register_forward_pre_hook(session.begin_forward, with_kwargs=True, prepend=True)
    undo.callback(begin.remove)
    if isinstance(model, CacheMixin):
        _replace(model, "cache_context", session.watch(model.cache_context), undo)
    for chain in cached:
        for position, link in enumerate(chain.links):
            _replace(link.block, "forward", _caller(chain, position), undo)
    return DBCache(options, session, cached)


def _caller(chain: Chain, position: int) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        return chain.call(position, args, kwargs)

    # A compiled block decides in Python, and compiles what it runs.
    return torch.compiler.disable(forward, recursive=False)


def _replace(module: nn.Module, name: str, method: Any, undo: ExitStack) -> None:
    """Give an instance another method, and take it back."""
    own = vars(module)
    if name in own:
        undo.callback(own.__setitem__, name, own[name])
    else:
        undo.callback(own.pop, name)
    own[name] = method
