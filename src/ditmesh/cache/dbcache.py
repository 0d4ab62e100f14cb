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
from ditmesh.collectives import all_gather
from ditmesh.config import CalibratorConfig, DBCacheConfig, ParallelismConfig, ParamsModifier
from ditmesh.modules import Link, Streams, links, override
from ditmesh.session import Branch, Session
from ditmesh.spec import ModelSpec

MAIN = "hidden_states"  # the stream that decides, where a chain has several
Configs = tuple[DBCacheConfig, CalibratorConfig | None]


@dataclass
class State:
    """What one branch keeps of its last computed step, and of the step under way."""

    shapes: Any
    forward: int = -1
    refreshed: bool = False
    record: Record = field(default_factory=Record)
    probe: Tensor | None = None
    stored: bool = False
    forecasts: dict[str, Forecast] = field(default_factory=dict)
    start: Tensor | None = None
    entry: Streams = field(default_factory=dict)
    hit: bool = False


class Chain:
    """One chain of blocks and its cache."""

    def __init__(
        self, name: str, blocks: Sequence[Link], modifier: ParamsModifier, session: Session, mesh: DeviceMesh | None
    ):
        self.name, self.links, self.modifier, self.session, self.mesh = name, blocks, modifier, session, mesh
        streams = [name for name in blocks[0].returns if name]
        self.main = MAIN if MAIN in streams else streams[0]
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
                f"Fn_compute_blocks={first} and Bn_compute_blocks={last} are more than the {count} "
                f"blocks of {self.name}; use Fn_compute_blocks=1 and Bn_compute_blocks=0, or any two that add up to less than {count}."
            )
        self.first, self.last = first, count - last

    def forget(self) -> None:
        """Begin a request."""
        self.states: dict[Branch, State] = {}
        self.tested: tuple[int, float] | None = None  # the last step that was tested, and the difference found

    def call(self, position: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a block of the chain, or leave it out."""
        link, state = self.links[position], self.states.get(self.session.branch)
        if state is None or state.forward != self.session.forward:  # the first block, unless the model leaves it out
            state = self._begin_step()
        if position == 0:
            state.start = link.streams(args, kwargs)[self.main]
        if position == self.first:
            entry = link.streams(args, kwargs)
            state.entry = self._foresee(state, entry) if state.hit else entry
        if state.hit and self.first <= position < self.last:
            return link.pack(state.entry if position == self.last - 1 else link.streams(args, kwargs))
        output = link.run(*args, **kwargs)
        if position == self.first - 1 and state.start is not None:
            self._decide(state, state.start, link.unpack(output)[self.main])
        if position == self.last - 1 and not state.hit:
            self._store(state, link.unpack(output))
        return output

    def _begin_step(self) -> State:
        branch, shapes = self.session.branch, self.session.shapes
        state = self.states.setdefault(branch, State(shapes))
        once = self.config.force_refresh_step_policy == "once"
        if state.record.step + 1 == self.config.force_refresh_step_hint and not (once and state.refreshed):
            state = self.states[branch] = State(shapes, refreshed=True)
        if state.shapes != shapes:
            state.shapes, state.stored, state.forecasts = shapes, False, {}
        state.record.step += 1
        state.forward, state.hit, state.start, state.entry = self.session.forward, False, None, {}
        return state

    def _decide(self, state: State, before: Tensor, after: Tensor | None) -> None:
        assert after is not None, "the model drops the stream that decides"
        probe, record = (after - before).detach(), state.record
        hit = settle(self.config, record) if state.stored else False
        if hit is None:
            record.differences[record.step] = self._difference(state.probe, probe)
            hit = record.differences[record.step] < self.config.residual_diff_threshold
        record.count(hit)
        state.hit, state.start = hit, None
        if not hit:
            state.probe, state.stored = probe, False

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
        for name, forecast in state.forecasts.items():
            x, value = entry[name], forecast.at(state.record.step)
            like = entry[self.main] if x is None else x
            assert like is not None
            out[name] = (value if x is None or not self._adds(name) else x + value).to(like.dtype)
        return out

    def _store(self, state: State, out: Streams) -> None:
        """Remember what the middle blocks made of what went in."""
        for name, x in state.entry.items():
            y = out[name]
            if y is None:
                continue
            if name not in state.forecasts:
                state.forecasts[name] = build_forecast(self.calibrator, name == self.main, self._total)
            y = y.detach().float()
            added = y if x is None or not self._adds(name) else y - x.detach().float()
            state.forecasts[name].update(state.record.step, added)
            state.stored = True
        state.entry = {}

    def _adds(self, stream: str) -> bool:
        """Whether it is what the blocks add that is kept, or what comes out of them."""
        calibrator = self.calibrator
        if calibrator is None or not is_forecast(calibrator, stream == self.main):
            return True
        return calibrator.calibrator_cache_type == "residual"


class DBCache:
    """The cache of one transformer.

    Attributes:
        options: the configs of the call, before any modifier.
        parallelism: the layout it runs in, for those who ask.
    """

    options: Configs
    parallelism: ParallelismConfig

    def __init__(self, session: Session, chains: list[Chain]):
        self.session, self.chains = session, chains
        session.forgetters += [chain.forget for chain in chains]

    def configure(self, options: Configs) -> None:
        """Begin a request with these settings, and what the modifiers make of them."""
        for chain in self.chains:
            chain.configure(chain.modifier.of(*options))
        self.options = options
        self.session.configure(options[0].enable_separate_cfg, options[0].num_inference_steps)


def apply_dbcache(
    model: nn.Module,
    spec: ModelSpec,
    options: Configs,
    modifiers: Sequence[ParamsModifier],
    mesh: DeviceMesh | None,
    undo: ExitStack,
) -> DBCache:
    """Cache the steps of a transformer, in place.

    Args:
        model: the transformer ``spec`` describes.
        spec: its fact sheet, or what a ``BlockAdapter`` says of it.
        options: the config and the calibrator of every chain of blocks.
        modifiers: what each list of blocks does differently; one is for all of them.
        mesh: the ranks that share a forward, as one axis; None for one process.
        undo: takes what takes each change back.

    Raises:
        ValueError: more blocks to compute than there are, or modifiers for another number of lists.
    """
    session = Session()
    cached = [Chain(name, blocks, each, session, mesh) for name, blocks, each in _chains(model, spec, modifiers)]
    cache = DBCache(session, cached)
    cache.configure(options)
    begin = model.register_forward_pre_hook(session.begin_forward, with_kwargs=True, prepend=True)
    undo.callback(begin.remove)
    if isinstance(model, CacheMixin):
        override(model, "cache_context", session.watch(model.cache_context), undo)
    for chain in cached:
        for position, link in enumerate(chain.links):
            override(link.block, "forward", _caller(chain, position), undo)
    return cache


def _chains(
    model: nn.Module, spec: ModelSpec, modifiers: Sequence[ParamsModifier]
) -> list[tuple[str, list[Link], ParamsModifier]]:
    """Name, blocks and modifier of each chain: lists that follow each other with the same streams and settings."""
    lists = [blocks for blocks in spec.blocks if not blocks.apart]
    if len(modifiers) not in (0, 1, len(lists)):
        raise ValueError(
            f"params_modifiers has {len(modifiers)} entries, and {spec.title} has {len(lists)} lists of blocks: "
            f"{', '.join(blocks.path for blocks in lists)}; give one for each, or one for all."
        )
    each = list(modifiers) if len(modifiers) == len(lists) else [*modifiers, ParamsModifier()][:1] * len(lists)
    found: list[tuple[str, list[Link], ParamsModifier]] = []
    returns: tuple[str, ...] = ()
    for blocks, modifier in zip(lists, each, strict=True):
        if returns == blocks.returns and found[-1][2] == modifier:
            name, before, _ = found.pop()
            found.append((f"{name}+{blocks.path}", before + links(model, blocks), modifier))
        else:
            found.append((blocks.path, links(model, blocks), modifier))
        returns = blocks.returns
    return found


def _caller(chain: Chain, position: int) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        return chain.call(position, args, kwargs)

    # A compiled block decides in Python, and compiles what it runs.
    return torch.compiler.disable(forward, recursive=False)
