"""Let the stages of PipeFusion go on from one step to the next, on stock pipelines.

The last stage steps each patch of the latents as soon as it is there, by a copy of the pipeline's own scheduler, and
sends it to the first, which begins the next step with it:

    stage 0: 0 1 2 0 1 2
    stage 1:   0 1 2 0 1 2

Meanwhile every rank's pipeline goes on with deferred tensors: what the transformer returns, and the latents that the
scheduler makes of it. If the pipeline reads one of them, all ranks get the numbers there and then, and the stages
overlap within that step only.
"""

import copy
import functools
import inspect
from contextlib import ExitStack
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor

from ditmesh.models import TOKENWISE_SCHEDULERS
from ditmesh.parallel.pipefusion.stage_links import Lane
from ditmesh.parallel.pipefusion.stages import PipeFusion, Step
from ditmesh.parallel.pipefusion.step_route import StepRoute, flags, instead, is_tokenwise, step_patch
from ditmesh.runtime.collectives import all_reduce
from ditmesh.runtime.mesh import Mesh, forward_mesh
from ditmesh.spec import ModelSpec
from ditmesh.upstream.deferred import Later, bare, plain, same
from ditmesh.upstream.modules import argument_names, bind, foreign_hooks, held, intercept_call, override
from ditmesh.upstream.request import Requests
from ditmesh.upstream.trees import map_tensors, tensors


@dataclass
class Waiting:
    """A step that is to run, its output, and the latents that the transformer was given for it."""

    route: StepRoute
    step: Step
    output: Later
    latents: Tensor


class Overlap:
    """Runs the transformer when the scheduler is to step what it returned.

    Attributes:
        argument: the one that holds the transformer's latents.
        route: that of the request under way, if its stages may overlap.
        shown: the last step of the warm-up, and what it returned, until the scheduler steps.
        seen: the route that the scheduler then saw, and the latents it made, until the next step begins.
        waiting: the step that is to run.
        outputs, latents: all that were deferred in this request.
    """

    def __init__(self, fusion: PipeFusion, argument: str, scheduler: Any, mesh: Mesh):
        self.fusion, self.argument = fusion, argument
        self.scheduler, self.stock = scheduler, scheduler.step
        self.call_names = argument_names(fusion.model)
        self.step_names = list(inspect.signature(scheduler.step).parameters)
        self.lane, self.everyone = Lane(mesh), forward_mesh(mesh)
        self.waiting: Waiting | None = None
        self.outputs: list[Later] = []
        self.latents: list[Later] = []
        self.begin_request()

    def begin_request(self) -> None:
        """Forget the last request."""
        self.settle()
        self.route: StepRoute | None = None
        self.shown: tuple[Step, Any] | None = None
        self.seen: tuple[StepRoute, Later] | None = None

    def settle(self) -> None:
        """Fill all deferred tensors while the ranks are together: no rank knows which of them another keeps."""
        if self.waiting is not None:
            self.waiting.output.settle()
        self.lane.clear()
        for deferred in (self.outputs, self.latents):
            if unread := [later for later in deferred if not later.settled]:
                self.lane.share(numbers := torch.stack([later.memory for later in unread]))
                for later, x in zip(unread, numbers, strict=True):
                    later.put(x)
            deferred.clear()

    def drop(self) -> None:
        """A request has failed: nothing of it comes any more."""
        self.waiting = None
        for later in (*self.outputs, *self.latents):
            later.fill = _is_lost
        self.outputs.clear()
        self.latents.clear()
        self.lane.drop()

    def _defer(self, like: Tensor, shape: torch.Size, among: list[Later]) -> Later:
        # Not a number until it is filled, so that whatever uses it too early shows.
        later = Later(like.new_full(shape, torch.nan), self._fill)
        among.append(later)
        return later

    def _fill(self, later: Later) -> None:
        """Somebody reads a deferred tensor, on all ranks.

        Raises:
            ValueError: it is no numbers, since something used latents that were not there yet.
        """
        waiting, latest = self.waiting, self.latents[-1] if self.latents else None
        if waiting is not None and later is waiting.output:
            self.waiting = None
            if latest is not None:
                latest.settle()
            later.memory.copy_(tensors(waiting.step.now())[0])
            return
        if later is latest:
            self.lane.clear()
        self.lane.share(later.memory)
        if later.memory.isnan().any():
            raise ValueError(
                f"the latents of {self.fusion.stage.title} are no numbers. If one process makes numbers of them, "
                f"a hook or a replaced forward mixes the latents of patches outside the blocks: remove it, or pass "
                f"num_pipeline_patch=1."
            )
        if waiting is not None:  # who reads may write: the transformer was called before that
            waiting.output.settle()

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """The transformer is called: run it, or let it wait for the scheduler."""
        if self.waiting is not None:
            self.waiting.output.settle()
        given = bind(self.call_names, args, kwargs)
        step = self.fusion.begin((), given)
        if step.number == self.fusion.warmup + 1:
            self.route = self._agree(given)
        route = self.route
        if route is None or not step.patched or flags(given) != route.flags:
            step.kwargs = plain(given)
            output = step.now()
            self.shown = (step, output) if step.number == self.fusion.warmup else None
            return output
        latents = given.pop(self.argument)
        flows = bool(self.latents) and self.latents[-1].is_unread(latents)
        latents = bare(latents) if flows else plain(latents)
        # Copies, since the step runs later than it was asked for.
        step.kwargs = map_tensors(Tensor.clone, plain(given)) | {self.argument: latents if flows else latents.clone()}
        [like] = tensors(route.output)
        self.waiting = Waiting(route, step, self._defer(like, like.shape, self.outputs), latents)
        return instead(like, self.waiting.output.deferred(), route.output)

    def _agree(self, given: dict[str, Any]) -> StepRoute | None:
        """The route from now on: what every rank saw, if none of them read the latents on the way."""
        self.settle()  # what was deferred before the latents took another shape
        seen, self.seen = self.seen, None
        holds = seen is not None and seen[1].is_unread(given.get(self.argument))
        holds &= not foreign_hooks(self.fusion.model, [link.block for link in self.fusion.stage.links])
        against = torch.tensor([not holds], dtype=torch.int32, device=self.everyone.device_type)
        return None if all_reduce(against, self.everyone).item() or seen is None else seen[0]

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """The scheduler is to step."""
        given, waiting = bind(self.step_names, args, kwargs), self.waiting
        made = given.get("model_output")
        if waiting is not None and waiting.output.is_unread(made) and self._takes(given, waiting.latents):
            return self._advance(waiting, given)
        given = plain(given)
        shown, self.shown = self.shown, None
        result = self.stock(**given)
        return result if shown is None else self._watch(*shown, given, result)

    def _takes(self, given: dict[str, Any], latents: object) -> bool:
        """Whether the scheduler steps the latents that the transformer was given, and each token by itself."""
        return same(given.get("sample"), latents) and is_tokenwise(self.scheduler, given)

    def _watch(self, step: Step, output: object, given: dict[str, Any], result: object) -> Any:
        """Remember the route of a step, and find out whether somebody reads the latents it made."""
        latents, made, stepped = step.kwargs[self.argument], tensors(output), tensors(result)
        if self._is_over() or not self._takes(given, latents) or not len(made) == len(stepped) == 1:
            return result
        if not same(made[0], given["model_output"]) or made[0].shape != latents.shape:
            return result
        assert self.fusion.patches is not None
        watched = Later(stepped[0], lambda later: None)  # the numbers are there
        self.seen = StepRoute(flags(step.kwargs), output, self.fusion.patches.patches), watched
        return instead(stepped[0], watched.deferred(), result)

    def _is_over(self) -> bool:
        index = self.scheduler.step_index
        return index is None or index >= len(self.scheduler.timesteps)

    def _advance(self, waiting: Waiting, given: dict[str, Any]) -> Any:
        """Run the step that waits, and step each patch of the latents when it is there."""
        route, step, output, links = waiting.route, waiting.step, waiting.output, self.fusion.stage.stage_links
        self.waiting, before = None, copy.copy(self.scheduler)
        # The pipeline's own scheduler has only to know which step it is at: a token stands in for the latents.
        tokens = {"model_output": output.memory, "sample": waiting.latents}
        result = self.stock(**given | {name: torch.zeros_like(x.narrow(1, 0, 1)) for name, x in tokens.items()})
        [token] = tensors(result)
        following, is_over = self._defer(token, output.memory.shape, self.latents), self._is_over()
        sent, left = len(links.sent), len(self.lane.leaving)
        for patch in step.forwards():
            self.lane.take(patch, route.cut(step.kwargs[self.argument], patch))
            [made] = tensors(step.forward())
            if self.lane.is_last:
                made = route.cut(made, patch)
                stepped = step_patch(before, given, made, route.cut(waiting.latents, patch))
                route.cut(following.memory, patch).copy_(stepped)
                route.cut(output.memory, patch).copy_(made)
                if not is_over:
                    self.lane.send(stepped)
        # What was sent in this step may still be on its way; what was sent in the one before is not.
        links.finish(sent)
        self.lane.finish(left)
        if is_over:  # whoever wants the picture may be alone
            following.settle()
            return instead(token, following.memory, result)
        if self.lane.is_first:
            self.lane.expect([route.cut(following.memory, patch) for patch in range(route.patches)])
        return instead(token, following.deferred(), result)


def _is_lost(later: Later) -> None:
    """Somebody kept a deferred tensor of a request that failed.

    Raises:
        RuntimeError: its numbers do not come any more.
    """
    raise RuntimeError("these latents were still being made when their request failed; draw it again.")


def apply_overlap(
    pipe: object, fusion: PipeFusion, spec: ModelSpec, mesh: Mesh, requests: Requests, undo: ExitStack
) -> None:
    """Let stages overlap across steps where the sheet and the scheduler allow it, and a request takes that route.

    Args:
        pipe: the pipeline, which has one transformer.
        fusion: what runs it.
        spec: its fact sheet.
        mesh: the mesh of the whole layout.
        requests: those of the pipeline.
        undo: takes what takes each change back, for which all ranks are needed.
    """
    scheduler = held(pipe, "scheduler")
    if fusion.patches is None or not spec.tokenwise or type(scheduler).__name__ not in TOKENWISE_SCHEDULERS:
        return
    assert scheduler is not None
    if held(scheduler, "step") is not None:
        return
    overlap = Overlap(fusion, spec.tokenwise, scheduler, mesh)

    @functools.wraps(type(scheduler).step)  # pipelines ask for its arguments
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        # A copy of the scheduler steps alone.
        return overlap.step(*args, **kwargs) if self is scheduler else type(self).step(self, *args, **kwargs)

    intercept_call(fusion.model, overlap.call, undo)
    override(scheduler, "step", MethodType(step, scheduler), undo)
    fusion.session.forgetters.append(overlap.begin_request)
    requests.at_end.append(overlap.settle)
    requests.at_failure.append(overlap.drop)
    undo.callback(overlap.settle)
