"""Let the stages of PipeFusion go on from one step to the next, on stock pipelines.

The last stage steps each patch of the latents as soon as it is there, by a copy of the pipeline's own scheduler, and
sends it to the first, which begins the next step with it:

    stage 0: 0 1 2 0 1 2
    stage 1:   0 1 2 0 1 2

Every rank's pipeline goes on with promises meanwhile: of what the transformer returns, and of the latents that the
scheduler makes of it. If it does anything else with one of them, all ranks come to have the numbers there and then, and
the stages overlap within the step only.
"""

import copy
import functools
import inspect
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ditmesh.parallel.pipefusion.patches import Patches
from ditmesh.parallel.pipefusion.stage_links import Lane
from ditmesh.parallel.pipefusion.stages import PipeFusion, Step
from ditmesh.parallel.pipefusion.step_route import (
    StepRoute,
    Trial,
    copied,
    find_route,
    flags,
    has_many_times,
    instead,
    is_local,
    options,
    step_patch,
    tensors,
)
from ditmesh.runtime.collectives import all_reduce
from ditmesh.runtime.mesh import Mesh, forward_mesh
from ditmesh.spec import ModelSpec
from ditmesh.upstream.deferred import Deferred, Later, bare, plain, same
from ditmesh.upstream.modules import argument_names, bind, intercept_call, override


@dataclass
class Waiting:
    """A step that is to run, the promise of its output, and the latents that the transformer was given for it."""

    route: StepRoute
    step: Step
    output: Later
    latents: Tensor


class Overlap:
    """Runs the transformer when the scheduler is to step what it returned.

    Attributes:
        route: that of the request under route, if its stages may overlap.
        shown: the last step of its warm-up, and what that returned.
        trial: what that step showed, until the next one begins: a route, and whether patches can go it on this rank.
        waiting: the step that is to run.
        latents: those promised last.
        promises: all of the request, as long as somebody has them, and their forms.
    """

    def __init__(self, fusion: PipeFusion, patches: Patches, spec: ModelSpec, scheduler: Any, mesh: Mesh):
        self.fusion, self.patches, self.spec = fusion, patches, spec
        self.scheduler, self.stock = scheduler, scheduler.step
        self.call_names = argument_names(fusion.model)
        self.step_names = list(inspect.signature(scheduler.step).parameters)
        self.lane, self.everyone = Lane(mesh), forward_mesh(mesh)
        self.waiting: Waiting | None = None
        self.latents: Later | None = None
        self.promises: list[tuple[weakref.ref[Later], Tensor]] = []
        self.begin_request()

    def begin_request(self) -> None:
        """Forget the last request."""
        self.settle()
        self.route: StepRoute | None = None
        self.shown: tuple[Step, Any] | None = None
        self.trial: tuple[Step, StepRoute, bool, Later] | None = None

    def settle(self) -> None:
        """Keep all promises that somebody has, as long as the ranks are together; the last stage knows which."""
        if not self.promises:
            return
        laters = [later() for later, _ in self.promises]
        open_ones = torch.tensor([later is not None and not later.settled for later in laters], dtype=torch.int32)
        open_ones = open_ones.to(self.promises[0][1].device)
        self.lane.share(open_ones)
        for later, (_, form), is_open in zip(laters, self.promises, open_ones.tolist(), strict=True):
            if is_open:
                (later or self._promise(form)).settle()
        self.lane.clear()
        self.waiting, self.latents, self.promises = None, None, []

    def _promise(self, like: Tensor) -> Later:
        later = Later(torch.empty_like(like, memory_format=torch.contiguous_format), self._fill)
        self.promises.append((weakref.ref(later), like.new_empty(()).expand(like.shape)))
        return later

    def _fill(self, memory: Tensor) -> None:
        """Somebody reads a promise, on all ranks."""
        waiting, latents = self.waiting, self.latents
        if waiting is not None and memory is waiting.output.memory:
            self.waiting = None
            if latents is not None:
                latents.settle()
            memory.copy_(tensors(waiting.step.now())[0])
            return
        if latents is not None and memory is latents.memory:
            self.lane.clear()
        self.lane.share(memory)
        if waiting is not None:  # who reads may write: the transformer was called before that
            waiting.output.settle()

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """The transformer is called: run it, or promise to."""
        if self.waiting is not None:
            self.waiting.output.settle()
        given = bind(self.call_names, args, kwargs)
        if self.trial is not None:
            self._judge(given)
        step, route = self.fusion.begin((), given), self.route
        if route is None or not step.patched or flags(given) != route.flags or route.latents not in given:
            step.kwargs = {name: _kept(x) for name, x in given.items()}
            output = step.now()
            self.shown = (step, output) if step.number == self.fusion.warmup else None
            return output
        latents = given.pop(route.latents)
        flows = self.latents is not None and self.latents.is_promised(latents)
        latents = bare(latents) if flows else plain(latents)
        # Copies, since the step runs later than it was asked for.
        step.kwargs = {name: copied(_kept(x)) for name, x in given.items()}
        step.kwargs[route.latents] = latents if flows else latents.clone()
        [like] = tensors(route.output)
        self.waiting = Waiting(route, step, self._promise(like), latents)
        return instead(like, self.waiting.output.promise(), route.output)

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """The scheduler is to step."""
        given, waiting = bind(self.step_names, args, kwargs), self.waiting
        if waiting is not None and self._follows(waiting, given):
            return self._advance(waiting, given | {"sample": waiting.latents})
        given = {name: _kept(x) for name, x in given.items()}
        shown, self.shown = self.shown, None
        route = None if shown is None else find_route(*shown, given, self.patches, self.spec)
        if shown is None or route is None:
            return self.stock(**given)
        trial = Trial(self.scheduler, given, route)
        result = self.stock(**given)
        if self._is_over() or len(tensors(result)) != 1:
            return result
        [made] = tensors(result)
        watched = Later(made, lambda memory: None)  # the numbers are there; who reads them shows that he does
        self.trial = shown[0], route, trial.equals(result), watched
        return instead(made, watched.promise(), result)

    def _judge(self, given: dict[str, Any]) -> None:
        """Overlap from now on if patches can go their way alone as far as every rank sees, and none reads latents."""
        assert self.trial is not None
        (step, route, holds, watched), self.trial = self.trial, None
        holds &= watched.is_promised(given.get(route.latents))
        holds &= is_local(step, route, self.patches, self.lane.is_first, self.lane.is_last)
        against = torch.tensor([not holds], dtype=torch.int32, device=step.kwargs[route.latents].device)
        self.route = None if all_reduce(against, self.everyone).item() else route

    def _is_over(self) -> bool:
        index = self.scheduler.step_index
        return index is None or index >= len(self.scheduler.timesteps)

    def _follows(self, waiting: Waiting, given: dict[str, Any]) -> bool:
        """Whether the scheduler is given what the transformer promised, and what that was given itself."""
        is_next = waiting.output.is_promised(given.get("model_output")) and same(given.get("sample"), waiting.latents)
        return is_next and not has_many_times(given) and options(given) == waiting.route.options

    def _advance(self, waiting: Waiting, given: dict[str, Any]) -> Any:
        """Run the step that waits, and step each patch of the latents when it is there."""
        route, step, output, neighbours = waiting.route, waiting.step, waiting.output, self.fusion.stage.neighbours
        self.waiting, is_last = None, self.lane.is_last
        twins = [copy.deepcopy(self.scheduler) for _ in route.rows] if is_last else []
        # The pipeline's own scheduler has only to know which step it is at: a token stands in for the latents.
        tokens = {"model_output": output.memory, "sample": waiting.latents}
        result = self.stock(**given | {name: torch.zeros_like(x.narrow(route.dim, 0, 1)) for name, x in tokens.items()})
        [token] = tensors(result)
        following, is_over = self._promise(token.new_empty(()).expand(output.memory.shape)), self._is_over()
        sent, left = len(neighbours.sent), len(self.lane.leaving)
        for patch in step.forwards():
            self.lane.take(patch, route.cut(step.kwargs[route.latents], patch))
            [made] = tensors(step.forward())
            if is_last:
                stepped = step_patch(twins[patch], given | {"model_output": made}, route, patch)
                route.cut(following.memory, patch).copy_(stepped)
                route.cut(output.memory, patch).copy_(route.cut(made, patch))
                if not is_over:
                    self.lane.send(stepped)
        # What was sent in this step may still be on its route; what was sent in the one before is not.
        neighbours.finish(sent)
        self.lane.finish(left)
        self.latents = following
        if is_over:  # whoever wants the picture may be alone
            following.settle()
            return instead(token, following.memory, result)
        if self.lane.is_first:
            self.lane.expect([route.cut(following.memory, patch) for patch in range(len(route.rows))])
        return instead(token, following.promise(), result)


class Rerouted:
    """The step of a pipeline's scheduler; copies of the scheduler have their own."""

    def __init__(self, stock: Callable[..., Any], step: Callable[..., Any]):
        self.stock, self.step = stock, step
        functools.update_wrapper(self, stock)  # pipelines ask for its arguments

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.step(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.stock, memo)


def apply_overlap(pipe: Any, fusion: PipeFusion, spec: ModelSpec, mesh: Mesh, undo: ExitStack) -> None:
    """Let stages overlap across steps wherever a request shows that they can; in place.

    Args:
        pipe: the pipeline, which has one transformer.
        fusion: what runs it.
        spec: its fact sheet.
        mesh: the mesh of the whole layout.
        undo: takes what takes each change back, for which all ranks are needed.
    """
    scheduler = vars(pipe).get("scheduler")
    if fusion.patches is None or not isinstance(scheduler, SchedulerMixin) or "step" in vars(scheduler):
        return
    if not {"step", "step_index", "timesteps"} <= set(dir(scheduler)):
        return
    overlap = Overlap(fusion, fusion.patches, spec, scheduler, mesh)
    intercept_call(fusion.model, overlap.call, undo)
    override(scheduler, "step", Rerouted(overlap.stock, overlap.step), undo)
    fusion.session.forgetters.append(overlap.begin_request)
    if "maybe_free_model_hooks" in dir(pipe):
        free_hooks = pipe.maybe_free_model_hooks

        def end_request() -> Any:
            overlap.settle()
            return free_hooks()

        override(pipe, "maybe_free_model_hooks", end_request, undo)
    undo.callback(overlap.settle)


def _kept(x: Any) -> Any:
    """An argument with the numbers of every promise in it."""
    return tree_map(plain, x) if any(isinstance(leaf, Deferred) for leaf in tree_leaves(x)) else x
