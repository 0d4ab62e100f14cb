"""How a pipeline goes from its transformer to its scheduler and back, and whether each patch can go that way alone.

One step of a request shows it. What it shows is not believed of later steps: it tells what is worth a promise.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ditmesh.parallel.pipefusion.patches import Memory, Patches, patch_of
from ditmesh.parallel.pipefusion.stages import Step
from ditmesh.spec import Gather, ModelSpec
from ditmesh.upstream.deferred import same


@dataclass(frozen=True)
class StepRoute:
    """From the transformer to the scheduler's step and back.

    Attributes:
        latents: the argument of the transformer that the scheduler made.
        flags: the arguments that are true or false, which decide what form the output has.
        output: an output, for its form.
        options: what the scheduler's step is told beside output, time and latents.
        dim: of output and latents alike; it runs over the tokens.
        rows: the tokens of each patch.
    """

    latents: str
    flags: dict[str, bool]
    output: Any
    options: dict[str, Any]
    dim: int
    rows: list[range]

    def cut(self, x: Tensor, patch: int) -> Tensor:
        """A patch of the latents, or of what is as long, as a view."""
        return x.narrow(self.dim, self.rows[patch].start, len(self.rows[patch]))


def find_route(step: Step, output: Any, given: dict[str, Any], patches: Patches, spec: ModelSpec) -> StepRoute | None:
    """The route of a step, if the scheduler was given what the transformer returned for the very same latents.

    Args:
        step: a call of the transformer.
        output: what it returned.
        given: the arguments of the scheduler's step that came next.
        patches: what the model's sequences are cut by.
        spec: its fact sheet.
    """
    ends = {(cut.dim, cut.stream) for cut in _cuts(spec) if isinstance(cut, Gather)}
    made, sample = tensors(output), given.get("sample")
    latents = [name for name, x in step.kwargs.items() if same(x, sample)]
    if len(made) != 1 or len(latents) != 1 or len(ends) != 1 or not same(made[0], given.get("model_output")):
        return None
    [(dim, stream)], like = ends, made[0]
    length = patches.lengths.get(stream, 0) if isinstance(stream, str) else 0
    if like.shape != step.kwargs[latents[0]].shape or dim >= like.ndim or like.shape[dim] != length:
        return None
    if has_many_times(given) or tensors(options(given)):
        return None
    rows = [patch_of(length, patches.patches, patch) for patch in range(patches.patches)]
    return StepRoute(latents[0], flags(step.kwargs), output, options(given), dim, rows)


def _cuts(spec: ModelSpec) -> list[Any]:
    entries = [entry.values() if isinstance(entry, Mapping) else [entry] for entry in spec.cp_plan.values()]
    return [cut for entry in entries for cut in entry]


def has_many_times(given: dict[str, Any]) -> bool:
    """Whether a scheduler's step is told a time for each token, or sample."""
    time = given.get("timestep")
    return isinstance(time, Tensor) and time.numel() != 1


def flags(given: dict[str, Any]) -> dict[str, bool]:
    """The arguments of a call that are true or false."""
    return {name: x for name, x in given.items() if isinstance(x, bool)}


def options(given: dict[str, Any]) -> dict[str, Any]:
    """What else a scheduler's step is told."""
    return {name: x for name, x in given.items() if name not in ("model_output", "timestep", "sample")}


def tensors(tree: Any) -> list[Tensor]:
    """The tensors in an output or among arguments."""
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


def copied(x: Any) -> Any:
    """An argument whose tensors nobody else writes to."""
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, x)


def instead(token: Tensor, x: Tensor, tree: Any) -> Any:
    """What a call returns, with another tensor."""
    return tree_map(lambda leaf: x if leaf is token else leaf, tree)


class Trial:
    """A scheduler's step of the whole latents, and of each patch by a scheduler of its own."""

    def __init__(self, scheduler: Any, given: dict[str, Any], route: StepRoute):
        self.scheduler, self.given, self.route = scheduler, given, route
        self.twins = [copy.deepcopy(scheduler) for _ in route.rows]
        self.randomness = self._randomness()

    def equals(self, result: Any) -> bool:
        """Whether the patches are those of the whole to the bit, without noise or a memory of the latents."""
        sample, whole = self.given["sample"], tensors(result)
        kept = any(x.shape == sample.shape for x in tensors(vars(self.scheduler)))
        drawn = not all(map(torch.equal, self.randomness, self._randomness()))
        if kept or drawn or len(whole) != 1 or whole[0].shape != sample.shape:
            return False
        stepped = [step_patch(twin, self.given, self.route, patch) for patch, twin in enumerate(self.twins)]
        return all(torch.equal(x, self.route.cut(whole[0], patch)) for patch, x in enumerate(stepped))

    def _randomness(self) -> list[Tensor]:
        """The states of all generators that the step may draw from."""
        sample = self.given["sample"]
        drawn = [x.get_state() for x in tree_leaves(options(self.given)) if isinstance(x, torch.Generator)]
        device = [torch.cuda.get_rng_state(sample.device)] if sample.is_cuda else []
        return [torch.get_rng_state(), *device, *drawn]


def step_patch(scheduler: Any, given: dict[str, Any], route: StepRoute, patch: int) -> Tensor:
    """What a scheduler makes of one patch."""
    parts = {name: route.cut(given[name], patch) for name in ("model_output", "sample")}
    return tensors(scheduler.step(**given | parts))[0]


class Copies(dict[Any, Any]):
    """A memory that copies what is asked for, so that nobody changes the other one."""

    def __init__(self, of: Mapping[Any, Any]):
        super().__init__()
        self.of = of

    def __missing__(self, key: Any) -> Any:
        self[key] = tree_map(torch.clone, self.of[key])
        return self[key]


def is_local(step: Step, route: StepRoute, patches: Patches, is_first: bool, is_last: bool) -> bool:
    """Whether a stage's part in each patch is the same whatever stands in place of the latents it will not have.

    The first stage has those of the patch, the others have none and take streams instead. Blocks do not run for this:
    they show what they are given, which has to be the same with latents that are no numbers.
    """
    assert step.memory is not None
    real, found = step.kwargs[route.latents], []
    if not real.is_floating_point():
        return False
    for patch in patches.run_patches(Memory(step.memory.shapes, layers=Copies(step.memory.layers))):
        none = torch.full_like(real, torch.nan)
        if is_first:
            route.cut(none, patch).copy_(route.cut(real, patch))
        seen = [_look(step, step.kwargs | {route.latents: latents}, is_last) for latents in (real, none)]
        # To the end, whatever is found: ranks that share the sequence go together.
        found.append(len(seen[0]) == len(seen[1]) and all(map(torch.equal, *seen)))
    return all(found)


def _look(step: Step, given: dict[str, Any], is_last: bool) -> list[Tensor]:
    """What a stage's blocks are given in a forward that runs none, and what the last stage returns."""
    stage, seen = step.fusion.stage, []

    def look(position: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        link = stage.links[position]
        streams = link.streams(args, kwargs)
        if position in stage.own:
            seen.extend(tensors((args, kwargs)))
        if position in stage.neighbours.inlets:
            streams = {name: None if x is None else torch.ones_like(x) for name, x in streams.items()}
        return link.pack(streams)

    stage.look = look
    try:
        output = step.fusion.run(**given)
        stage.check()
    finally:
        stage.look = None
    return [*seen, *(tensors(output) if is_last else [])]
