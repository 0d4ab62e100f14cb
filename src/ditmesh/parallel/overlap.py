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
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.utils._pytree import tree_leaves, tree_map

from ditmesh.attention.patches import Patches
from ditmesh.collectives import Transfer, all_reduce, broadcast
from ditmesh.mesh import forward_mesh, lanes
from ditmesh.modules import argument_names, bind, override
from ditmesh.parallel.pipefusion import PipeFusion, Step
from ditmesh.parallel.promise import Later, Promise, bare, plain, same
from ditmesh.parallel.way import Trial, Way, find_way, flags, has_many_times, is_local, options, step_patch, tensors
from ditmesh.spec import ModelSpec

PATIENCE = 2  # how often in a row a pipeline may read what was promised before it is promised nothing more


class Lane:
    """The way of the latents' patches from the last stage to the first."""

    def __init__(self, mesh: DeviceMesh):
        self.stages, self.group = mesh["pp"], lanes(mesh)[1]
        rank, self.last = self.stages.get_local_rank(), self.stages.size() - 1
        self.is_first, self.is_last = rank == 0, rank == self.last
        self.arriving: dict[int, Transfer] = {}
        self.leaving: list[Transfer] = []

    def send(self, x: Tensor) -> None:
        """The last stage has made a patch."""
        if x.numel():
            self.leaving.append(Transfer(x.contiguous(), self.group, to=0))

    def expect(self, patches: list[Tensor]) -> None:
        """The first stage will need patches like these."""
        for patch, x in enumerate(patches):
            if x.numel():
                empty = torch.empty_like(x, memory_format=torch.contiguous_format)
                self.arriving[patch] = Transfer(empty, self.group, source=self.last)

    def take(self, patch: int, into: Tensor) -> None:
        """The first stage begins a patch."""
        if patch in self.arriving:
            into.copy_(self.arriving.pop(patch).wait())

    def finish(self, first: int | None = None) -> None:
        """Wait until what was sent has arrived, or the first few patches of it."""
        for transfer in self.leaving[:first]:
            transfer.wait()
        del self.leaving[:first]

    def share(self, x: Tensor) -> None:
        """All ranks take what the last stage has of a whole tensor; what is on its way is not needed then."""
        for transfer in self.arriving.values():
            transfer.wait()
        self.arriving = {}
        self.finish()
        broadcast(x, self.last, self.stages)


@dataclass
class Waiting:
    """A step that is to run, and the promise of its output."""

    way: Way
    step: Step
    output: Later


class Overlap:
    """Runs the transformer when the scheduler is to step what it returned.

    Attributes:
        way: that of the request under way, if its stages may overlap.
        shown: the last step of its warm-up, and what that returned.
        waiting: the step that is to run.
        promised: the last output and the last latents, if they were promised.
        touches: how often in a row the pipeline read such a promise.
        proven: the shapes of the tensors for which each stage was seen to need only its own part of a patch.
    """

    def __init__(self, fusion: PipeFusion, patches: Patches, spec: ModelSpec, scheduler: Any, mesh: DeviceMesh):
        self.fusion, self.patches, self.spec = fusion, patches, spec
        self.scheduler, self.stock = scheduler, scheduler.step
        self.call_names, self.step_names = (
            argument_names(fusion.model),
            list(inspect.signature(scheduler.step).parameters),
        )
        self.lane, self.everyone = Lane(mesh), forward_mesh(mesh)
        self.promised: dict[str, Later] = {}
        self.proven: Any = None
        self.begin_request()

    def begin_request(self) -> None:
        """Forget the last request."""
        self.settle()
        self.way: Way | None = None
        self.shown: tuple[Step, Any] | None = None
        self.touches = 0

    def settle(self) -> None:
        """Keep what was promised, on all ranks, as long as they are together."""
        for later in self.promised.values():
            later.settle()
        self.promised = {}
        self.waiting: Waiting | None = None

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """The transformer is called: run it, or promise to."""
        if self.waiting is not None:
            self.waiting.output.settle()
        given = bind(self.call_names, args, kwargs)
        step, way, latents = self.fusion.begin((), given), self.way, self.promised.get("latents")
        if way is None or not step.patched or flags(given) != way.flags or self.touches >= PATIENCE:
            step.kwargs = {name: _kept(x) for name, x in given.items()}
            output = step.now()
            self.shown = (step, output) if step.number == self.fusion.warmup else None
            return output
        flows = latents is not None and latents.is_promised(given.get(way.latents))
        step.kwargs = {name: bare(x) if flows and name == way.latents else _kept(x) for name, x in given.items()}
        self.touches = 0 if flows else self.touches
        [like] = tensors(way.output)
        output = self.promised["output"] = Later(torch.empty_like(like), self._run_now)
        self.waiting = Waiting(way, step, output)
        return _instead(like, output.promise(), way.output)

    def _run_now(self, memory: Tensor) -> None:
        """The output is read, or never will be: the step runs as if there were no other."""
        assert self.waiting is not None, "the step failed that was to make it"
        step, self.waiting, self.touches = self.waiting.step, None, self.touches + 1
        if "latents" in self.promised:
            self.promised["latents"].settle()
        [made] = tensors(step.now())
        memory.copy_(made)

    def _share(self, memory: Tensor) -> None:
        """What the last stage has is read."""
        self.touches += 1
        self.lane.share(memory)

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """The scheduler is to step."""
        given, waiting = bind(self.step_names, args, kwargs), self.waiting
        if waiting is not None and self._follows(waiting, given):
            return self._advance(waiting, given)
        given = {name: _kept(x) for name, x in given.items()}
        shown, self.shown = self.shown, None
        way = None if shown is None else find_way(*shown, given, self.patches, self.spec)
        if shown is None or way is None:
            return self.stock(**given)
        trial = Trial(self.scheduler, given, way)
        result = self.stock(**given)
        if not self._is_over():
            self.way = way if self._agree(shown[0], way, trial.equals(result)) else None
        return result

    def _agree(self, step: Step, way: Way, holds: bool) -> bool:
        """Whether every rank finds that a patch can go its way alone: a stage sees only its own part of it."""
        assert step.memory is not None
        if self.proven != step.memory.shapes:
            holds &= is_local(step, way, self.patches, self.lane.is_first, self.lane.is_last)
        device = step.kwargs[way.latents].device
        against = all_reduce(torch.tensor([not holds], dtype=torch.int32, device=device), self.everyone)
        if against.item():
            return False
        self.proven = step.memory.shapes
        return True

    def _is_over(self) -> bool:
        index = self.scheduler.step_index
        return index is None or index >= len(self.scheduler.timesteps)

    def _follows(self, waiting: Waiting, given: dict[str, Any]) -> bool:
        """Whether the scheduler is given what the transformer promised, and what that was given itself."""
        way, latents = waiting.way, waiting.step.kwargs.get(waiting.way.latents)
        is_next = waiting.output.is_promised(given.get("model_output")) and same(bare(given.get("sample")), latents)
        return is_next and not has_many_times(given) and options(given) == way.options

    def _advance(self, waiting: Waiting, given: dict[str, Any]) -> Any:
        """Run the step that waits, and step each patch of the latents when it is there."""
        way, step, output, neighbours = waiting.way, waiting.step, waiting.output, self.fusion.stage.neighbours
        self.waiting, latents = None, step.kwargs[way.latents]
        del self.promised["output"]
        twins = [copy.deepcopy(self.scheduler) for _ in way.rows] if self.lane.is_last else []
        # The pipeline's own scheduler has only to know which step it is at: a token stands in for the latents.
        tokens = {"model_output": output.memory, "sample": latents}
        result = self.stock(**given | {name: torch.zeros_like(x.narrow(way.dim, 0, 1)) for name, x in tokens.items()})
        [token] = tensors(result)
        following, is_over = latents.new_empty(latents.shape, dtype=token.dtype), self._is_over()
        sent, left = len(neighbours.sent), len(self.lane.leaving)
        for patch in step.forwards():
            self.lane.take(patch, way.cut(latents, patch))
            [made] = tensors(step.forward())
            if self.lane.is_last:
                stepped = step_patch(twins[patch], given | {"model_output": made, "sample": latents}, way, patch)
                way.cut(following, patch).copy_(stepped)
                way.cut(output.memory, patch).copy_(way.cut(made, patch))
                if not is_over:
                    self.lane.send(stepped)
        # What was sent in the step before has been waited for there; what was sent in this one may be on its way.
        neighbours.finish(sent)
        self.lane.finish(left)
        output.fill = self._share
        self.promised = {"output": output, "latents": Later(following, self._share)}
        if is_over:
            self.promised["latents"].settle()
            return _instead(token, following, result)
        if self.lane.is_first:
            self.lane.expect([way.cut(following, patch) for patch in range(len(way.rows))])
        return _instead(token, self.promised["latents"].promise(), result)


class Rerouted:
    """The step of a pipeline's scheduler; copies of the scheduler have their own."""

    def __init__(self, stock: Callable[..., Any], step: Callable[..., Any]):
        self.stock, self.step = stock, step
        functools.update_wrapper(self, stock)  # pipelines ask for its arguments

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.step(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.stock, memo)


def apply_overlap(pipe: Any, fusion: PipeFusion, spec: ModelSpec, mesh: DeviceMesh, undo: ExitStack) -> None:
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
    override(fusion.model, "_call_impl", overlap.call, undo)
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
    return tree_map(plain, x) if any(isinstance(leaf, Promise) for leaf in tree_leaves(x)) else x


def _instead(token: Tensor, x: Tensor, tree: Any) -> Any:
    """What a call returns, with another tensor."""
    return tree_map(lambda leaf: x if leaf is token else leaf, tree)
