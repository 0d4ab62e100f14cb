"""Guidance (CFG) parallelism: two ranks, a branch each, on stock pipelines whose loop knows nothing of it.

A pipeline asks for its branches in one of two ways. Both in one batch, the same latents twice: each rank runs its half,
and the halves are gathered. Or one after the other: each rank runs its own, and returns a promise of the first, that is
filled when the second is there. Whoever reads a promise before that waits for the rank that makes it, so that a step
without a second branch costs its speed and never the picture.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
import torch.distributed as dist
from diffusers.configuration_utils import ConfigMixin
from diffusers.guiders.guider_utils import BaseGuidance
from torch import Tensor, nn

from ditmesh.parallel.halves import Halves, count_repeats
from ditmesh.runtime.collectives import all_gather
from ditmesh.runtime.mesh import Axis
from ditmesh.spec import ModelSpec
from ditmesh.upstream.deferred import FIRST, SECOND, Deferred, Pair, plain
from ditmesh.upstream.modules import argument_names, bind, intercept_call
from ditmesh.upstream.request import Requests
from ditmesh.upstream.trees import map_tensors, tensors, tree_flatten, tree_map, tree_unflatten


class Branches:
    """What the transformers of a pipeline have in common: a second branch may be another transformer's.

    Attributes:
        requests: those of the pipeline; None if a transformer is called by itself.
        pair: the branches of the step under way; None before the first.
        completed: some step had two.
    """

    def __init__(self, requests: Requests | None) -> None:
        self.requests = requests
        self.begin()

    def begin(self) -> None:
        """Forget the last request."""
        self.pair: Pair | None = None
        self.completed = False

    def are_expected(self) -> bool:
        """Whether the pipeline says that the request under way has two."""
        if self.requests is None:
            return False
        pipe = self.requests.pipe
        guiders = [part.config for part in pipe.components.values() if isinstance(part, BaseGuidance)]
        if guiders:
            return any(x.get("start", 0) > 0 and x.get("guidance_scale", 1) > 1 for x in guiders)
        return bool(getattr(pipe, "do_classifier_free_guidance", False))


class Guidance:
    """Runs one of the branches of a transformer on this rank.

    Attributes:
        branches: those of the request under way.
        run: what the transformer ran before.
        is_distilled: the model takes the scale of guidance as an input.
        in_halves: what runs is half of a batch, and the other rank runs the other half.
    """

    run: Callable[..., Any]

    def __init__(self, model: nn.Module, spec: ModelSpec, mesh: Axis, is_distilled: bool, idle: Callable[[], None]):
        self.title, self.names, self.mesh, self.idle = spec.title, argument_names(model), mesh, idle
        self.is_distilled, self.memories = is_distilled, spec.memories
        self.halves = Halves(model, spec)
        self.forms: dict[Any, Any] = {}  # of outputs, as tensors without memory
        self.branches = Branches(None)
        self.in_halves = False
        self.begin_request()

    def begin_request(self) -> None:
        """Forget the last request: what is found out about one holds until then."""
        self.branches.begin()
        self.in_one_batch: dict[Any, int] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.branches.requests is not None:
            self.branches.requests.notice(self.names, args, kwargs)
        bound = tree_map(plain, bind(self.names, args, kwargs))
        memories = {name: x for name, x in bound.items() if "cache" in name and x is not None}
        if self._fills(memories):
            return self.run(**bound)
        key = _form_of(bound)
        pair = self.branches.pair
        if pair is not None and not pair.settled:
            return self._second(pair, key, bound)
        if key not in self.in_one_batch:
            self.in_one_batch[key] = 1 if memories else self._count_repeats(bound.get(self.names[0]))
        return self._half(bound) if self.in_one_batch[key] == 2 else self._first(key, bound)

    def _fills(self, memories: dict[str, Any]) -> bool:
        """Whether a call keeps keys and values for later ones: no branch of a step, so that every rank runs it."""
        for name in memories.keys() - self.memories.keys():
            raise ValueError(
                f"cfg_size=2: this request of {self.title} keeps keys and values from call to call ({name}), and "
                f"a rank would miss what the calls of the other branch keep. Use these ranks otherwise: tp_size=2."
            )
        return any(self.memories[name](x) for name, x in memories.items())

    def _half(self, bound: dict[str, Any]) -> Any:
        """Both branches in one batch."""
        self.halves.check_attention()
        rank, latents = self.mesh.get_local_rank(), bound[self.names[0]]
        batch = len(latents)
        mine = {name: self.halves.of(name, value, latents)[rank] for name, value in bound.items()}
        self.branches.completed = True
        self.in_halves = True
        try:
            leaves, form = tree_flatten(self.run(**mine))
        finally:
            self.in_halves = False
        if isinstance(latents, list) and len(leaves) == batch // 2:  # a picture each, in a list
            both = [all_gather(x[None], 0, [1, 1], self.mesh) for x in leaves]
            nested = tree_unflatten(leaves, form)
            return _relist(nested, [x[FIRST] for x in both] + [x[SECOND] for x in both])
        whole = [all_gather(x, 0, [len(x)] * 2, self.mesh) if isinstance(x, Tensor) else x for x in leaves]
        return tree_unflatten(whole, form)

    def _first(self, key: object, bound: dict[str, Any]) -> Any:
        """The first branch, or the promise of it."""
        awaits = (FIRST, key) in self.forms
        output = self._run_on(FIRST, key, bound, awaits)
        repeats = self.in_one_batch[key]
        pair = self.branches.pair = Pair(self.mesh, tensors(output), lambda: self._alone(repeats, awaits), awaits)
        return map_tensors(lambda x: Deferred.of(x, pair), output)

    def _second(self, pair: Pair, key: object, bound: dict[str, Any]) -> Any:
        """The second branch, and with it the first."""
        output = self._run_on(SECOND, key, bound, pair.awaits)
        pair.complete(tensors(output))
        self.branches.completed = True
        return output

    def _run_on(self, rank: int, key: object, bound: dict[str, Any], at_once: bool) -> Any:
        """A branch on the rank that runs it, and room for it on the other one, which runs its own at once or idles.

        Raises:
            ValueError: on both ranks, if the one that runs it refuses what it is asked for.
        """
        is_here, is_known, output = self.mesh.get_local_rank() == rank, (rank, key) in self.forms, None
        told: list[Any] = [None]
        if is_here:
            try:
                output = map_tensors(Tensor.contiguous, self.run(**bound))
                told = [map_tensors(lambda x: torch.empty_like(x, device="meta"), output)]
            except ValueError as refusal:
                if is_known:
                    raise
                told = [ValueError(*refusal.args)]
        elif not at_once:
            self.idle()
        if not is_known:
            dist.broadcast_object_list(told, group=self.mesh.get_group(), group_src=rank)
            if isinstance(told[0], ValueError):
                self.branches.pair = None
                raise told[0]
            self.forms[rank, key] = told[0]
        if is_here:
            return output
        device = tensors(bound)[0].device
        return map_tensors(lambda x: torch.full_like(x, torch.nan, device=device), self.forms[rank, key])

    def _alone(self, repeats: int, awaits: bool) -> None:
        """A step has one branch: some do, but not the first. Or it has several in a batch that has no halves."""
        if awaits and self.mesh.get_local_rank() == SECOND:
            self.idle()
        self.in_one_batch.clear()  # the next step may have its two in one batch
        if not self.branches.completed and repeats > 1:
            self.branches.pair = None
            raise ValueError(
                f"cfg_size=2: this request gives {self.title} the same latents {repeats} times in one batch, so it has "
                f"{repeats} branches, and two ranks cannot share them evenly. Use these ranks otherwise: tp_size=2, or "
                f"dp_size=2 for two pictures at once."
            )
        if not self.branches.completed and not self.branches.are_expected():
            self.branches.pair = None
            why = ": its guidance is distilled, and guidance_scale is an input of it" if self.is_distilled else ""
            raise ValueError(
                f"cfg_size=2: this request runs {self.title} once a step, so there is no second branch to share "
                f"out{why}. Ask for one (a negative prompt, with true_cfg_scale or guidance_scale above 1 where the "
                f"model has them), or use these ranks otherwise: ulysses_size=2, or dp_size=2 for two pictures at once."
            )
        logging.getLogger("ditmesh").info("a step of %s has one branch; its second rank waits", self.title)

    def _count_repeats(self, latents: object) -> int:
        """How many times a batch holds the same latents, for as many branches; the ranks decide it as one."""
        leaves = tensors(latents)
        if not leaves:
            return 1
        decided = torch.tensor([count_repeats(latents)], dtype=torch.int32, device=leaves[0].device)
        dist.broadcast(decided, group=self.mesh.get_group(), group_src=FIRST)
        return int(decided.item())


def _form_of(bound: dict[str, Any]) -> Any:
    """What decides the form of a call's output."""
    leaves, tree = tree_flatten(bound)
    forms = [(tuple(x.shape), x.dtype) if isinstance(x, Tensor) else x for x in leaves]
    return tuple(x if isinstance(x, tuple | int | str | None) else type(x) for x in forms), str(tree)


def _relist(nested: Any, samples: list[Tensor]) -> Any:
    """An output whose one list of samples is replaced."""
    if isinstance(nested, list):
        return samples
    if isinstance(nested, tuple):
        return type(nested)(_relist(x, samples) for x in nested)
    return type(nested)(**{key: _relist(x, samples) for key, x in nested.items()})


def apply_guidance_parallel(
    model: nn.Module, spec: ModelSpec, mesh: Axis, idle: Callable[[], None] | None, undo: ExitStack
) -> Guidance:
    """Give each of two ranks one branch of guidance, in place.

    Args:
        model: the transformer ``spec`` describes.
        spec: its fact sheet.
        mesh: the two ranks.
        idle: what a rank does while the other one runs a forward, and until it is done; None if that needs no help.
        undo: takes what takes each change back.
    """
    is_distilled = isinstance(model, ConfigMixin) and bool(model.config.get("guidance_embeds"))
    guidance = Guidance(model, spec, mesh, is_distilled, idle or (lambda: None))
    # Above the model's own hooks: a branch that another rank runs must not begin a forward here.
    guidance.run = intercept_call(model, guidance, undo)
    return guidance


def watch_guidance(requests: Requests, guidances: Sequence[Guidance]) -> None:
    """Let a pipeline's requests begin those of its transformers, which share their branches."""
    branches = Branches(requests)
    for guidance in guidances:
        guidance.branches = branches
        requests.at_beginning.append(guidance.begin_request)
