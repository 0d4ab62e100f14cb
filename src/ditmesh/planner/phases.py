"""A call of a pipeline in its parts: what comes before the first step, every step, and what comes after the last."""

import functools
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import MethodType
from typing import Any

from torch import nn

from ditmesh.config import ParallelismConfig
from ditmesh.planner.blocks import Repeats
from ditmesh.planner.counting import Tally, axis_namer
from ditmesh.planner.memory import Memory
from ditmesh.planner.workload import Phase
from ditmesh.upstream.hollow import Watch
from ditmesh.upstream.modules import override

ENCODE, STEP, CACHED, DECODE = "encode", "step", "cached step", "decode"


@dataclass
class Part:
    """A stretch of the call: until the first step, a step, or what is left."""

    name: str
    tally: Tally
    component: str
    peak: int
    left: int


class Recorder:
    """Cuts a call into parts where a transformer runs first and where the scheduler has stepped.

    Attributes:
        parts: those that are over.
        watch: what has to be in force while the pipeline runs.
    """

    def __init__(self, layout: ParallelismConfig):
        self.layout = layout
        self.memory = Memory()
        self.repeats = Repeats(self.memory)
        self.parts: list[Part] = []
        self.watch = Watch(self._look)
        self._axis = axis_namer(layout)
        self._begun = False
        self._ran: dict[str, None] = {}

    def _look(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
        if func.namespace == "c10d":
            self.repeats.tally.message(func, args, self._axis)
        else:
            self.repeats.tally.operator(func, args, kwargs, out)
            self.memory.made(func, out)

    def follow(self, name: str, transformer: nn.Module, undo: ExitStack) -> None:
        """Take notice of a transformer's calls; before a layout is applied, so that only those that run here count."""
        run = transformer.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            self.notice(name)
            return run(*args, **kwargs)

        override(transformer, "forward", functools.wraps(run)(forward), undo)

    def notice(self, name: str) -> None:
        """A transformer runs."""
        if not self._begun:
            self._close(ENCODE)
            self._begun = True
        self._ran[name] = None

    def follow_steps(self, scheduler: Any, undo: ExitStack) -> None:
        """Take notice of a scheduler's steps; after a layout is applied, which may run the transformer in them."""
        stock = scheduler.step

        @functools.wraps(type(scheduler).step)  # pipelines ask for its arguments
        def step(this: Any, *args: Any, **kwargs: Any) -> Any:
            if this is not scheduler:  # a copy of it
                return type(this).step(this, *args, **kwargs)
            made = stock(*args, **kwargs)
            self._close(STEP)
            self.repeats.stage = min(len(self.parts) - 1, self.layout.warmup_steps) if self.layout.pp_size > 1 else 0
            self.repeats.keeps = self.layout.pp_size > 1 and len(self.parts) <= self.layout.warmup_steps
            return made

        self.repeats.keeps = self.layout.pp_size > 1
        override(scheduler, "step", MethodType(step, scheduler), undo)

    def _close(self, name: str) -> None:
        part = Part(name, self.repeats.tally, ".".join(self._ran), self.memory.peak, self.memory.live)
        self.parts.append(part)
        self.repeats.tally, self.memory.peak, self._ran = Tally(), self.memory.live, {}

    def finish(self) -> None:
        """The call is over."""
        self._close(DECODE if self._begun else ENCODE)


def phases(recorder: Recorder, cached: bool, beside: int) -> tuple[Phase, ...]:
    """The parts of a call, those that are alike once.

    Args:
        recorder: what followed the call.
        cached: steps may leave blocks out; those that do are a phase by themselves, of which nobody knows how many
            there will be: it is repeated 0 times, and the others as if none did.
        beside: bytes that are held for the whole call, and are no activations.
    """
    groups: dict[Any, list[Part]] = {}
    steps = [part for part in recorder.parts if part.name == STEP]
    most = {part.component: max(_flops(x) for x in steps if x.component == part.component) for part in steps}
    for number, part in enumerate(recorder.parts):
        is_step, whole = part.name == STEP, number <= recorder.layout.warmup_steps and recorder.layout.pp_size > 1
        name = CACHED if is_step and cached and _flops(part) < most[part.component] else part.name
        same = (name, part.component, whole and is_step, _flops(part), frozenset(part.tally.messages.items()))
        groups.setdefault(same, []).append(part)
    found: list[Phase] = []
    saved = {group[0].component: 0 for group in groups.values()}
    for (name, component, *_), group in groups.items():
        if name == CACHED:
            saved[component] += len(group)
    for (name, component, whole, *_), group in groups.items():
        operators, messages = group[-1].tally.listed()
        peak = max(max(part.peak for part in group) - beside * (name != ENCODE), 0)
        repeats = 0 if name == CACHED else len(group) + (saved.pop(component, 0) if name == STEP else 0)
        flows = not any(one.collective == "broadcast" and "pp" in one.axis.split(".") for one in messages)
        bubble = _bubble(recorder.layout, whole, flows, len(steps)) if name in (STEP, CACHED) else 0.0
        found.append(
            Phase(name, repeats, operators, messages, peak, group[-1].tally.launches, component, bubble=bubble)
        )
    return tuple(found)


def _flops(part: Part) -> int:
    return sum(one.flops * count for one, count in part.tally.operators.items())


def _bubble(layout: ParallelismConfig, whole: bool, flows: bool, steps: int) -> float:
    """The fraction of a step in which a stage waits for others.

    stage 0: 0 1 . . 0 1 . .        in patches       stage 0: 0 1 0 1 .        that flow from step to step
    stage 1: . 0 1 . . 0 1 .                         stage 1: . 0 1 0 1
    """
    stages, patches = layout.pp_size, 1 if whole else layout.patches
    ticks = patches * (steps if flows and patches > 1 else 1)
    return (stages - 1) / (ticks + stages - 1)
