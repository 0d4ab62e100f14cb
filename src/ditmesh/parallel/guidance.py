"""Guidance (CFG) parallelism: two ranks, a branch each, on stock pipelines whose loop knows nothing of it.

A pipeline asks for its branches in one of two ways. Both in one batch, the same latents twice: each rank runs its half,
and the halves are gathered. Or one after the other: each rank runs its own, and returns a promise of the first, that is
filled when the second is there. Whoever reads a promise before that waits for the rank that makes it, so that a step
without a second branch costs its speed and never the picture.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from diffusers.configuration_utils import ConfigMixin
from diffusers.guiders.guider_utils import BaseGuidance
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from ditmesh.runtime.collectives import all_gather
from ditmesh.spec import ModelSpec, Refuse, Split
from ditmesh.upstream.deferred import FIRST, SECOND, Deferred, Pair, plain
from ditmesh.upstream.modules import argument_names, bind, intercept_call, override


@dataclass(frozen=True)
class Form:
    """What a tensor looks like, for a rank that does not have it."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class Request:
    """What the transformers of a pipeline have in common: a second branch may be another transformer's.

    Attributes:
        pair: the branches of the step under way; None before the first.
        completed: some step had two.
        expects_two: whether the pipeline says that the request under way has two branches.
    """

    def __init__(self) -> None:
        self.expects_two: Callable[[], bool] = lambda: False
        self.begin()

    def begin(self) -> None:
        """Forget the last request."""
        self.pair: Pair | None = None
        self.completed = False


class Guidance:
    """Runs one of the branches of a transformer on this rank.

    Attributes:
        request: the one under way.
        run: what the transformer ran before.
        is_distilled: the model takes the scale of guidance as an input.
        in_halves: what runs is half of a batch, and the other rank runs the other half.
    """

    run: Callable[..., Any]

    def __init__(self, spec: ModelSpec, names: list[str], mesh: DeviceMesh, is_distilled: bool):
        self.title, self.names, self.mesh = spec.title, names, mesh
        self.is_distilled = is_distilled
        root = spec.cp_plan.get("", {})
        assert not isinstance(root, Split)
        self.cuts = root if isinstance(root, dict) else {}
        self.batch_dims, self.memories = spec.batch_dims, spec.memories
        self.forms: dict[Any, Any] = {}
        self.request = Request()
        self.in_halves = False
        self.begin_request()

    def begin_request(self) -> None:
        """Forget the last request: what is found out about one holds until then."""
        self.request.begin()
        self.in_one_batch: dict[Any, bool] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        bound = tree_map(plain, bind(self.names, args, kwargs))
        memories = {name: x for name, x in bound.items() if "cache" in name and x is not None}
        if self._fills(memories):
            return self.run(**bound)
        key = _form_of(bound)
        pair = self.request.pair
        if pair is not None and not pair.settled:
            return self._second(pair, key, bound)
        if key not in self.in_one_batch:
            self.in_one_batch[key] = not memories and self._is_doubled(bound.get(self.names[0]))
        return self._half(bound) if self.in_one_batch[key] else self._first(key, bound)

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
        self.request.completed = True
        rank, latents = self.mesh.get_local_rank(), bound[self.names[0]]
        batch = len(latents)
        mine = {name: self._halve(name, value, batch, isinstance(latents, list))[rank] for name, value in bound.items()}
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

    def _halve(self, name: str, value: Any, batch: int, listed: bool) -> tuple[Any, Any]:
        """An argument for each of the ranks; what has no batch is for both."""
        dim = self.batch_dims.get(name, 0)
        if isinstance(dim, Refuse) and value:
            raise ValueError(
                f"cfg_size=2 cannot halve a batch of {self.title} with {name}: {dim.why} "
                f"Leave it out, or use these ranks otherwise: ulysses_size=2."
            )
        if isinstance(dim, Refuse | None):
            return value, value
        if isinstance(value, Tensor):
            cut = self.cuts.get(name)
            runs_along = (
                isinstance(cut, Split) and cut.ndim in (None, value.ndim) and cut.dim in (dim, dim - value.ndim)
            )
            if value.ndim > dim and value.shape[dim] == batch and not runs_along:
                first, second = value.chunk(2, dim)
                return first, second
        elif isinstance(value, list) and len(value) == batch and (listed or not _tensors(value)):
            return value[: batch // 2], value[batch // 2 :]
        elif isinstance(value, list | tuple):
            halves = [self._halve(name, x, batch, listed) for x in value]
            return type(value)(a for a, _ in halves), type(value)(b for _, b in halves)
        elif isinstance(value, dict):
            pairs = {key: self._halve(name, x, batch, listed) for key, x in value.items()}
            return {key: a for key, (a, _) in pairs.items()}, {key: b for key, (_, b) in pairs.items()}
        return value, value

    def _first(self, key: Any, bound: dict[str, Any]) -> Any:
        """The first branch, or the promise of it."""
        output = self._run_on(FIRST, key, bound)
        pair = self.request.pair = Pair(self.mesh, _tensors(output), self._alone)
        return tree_map(lambda x: Deferred.of(x, pair), output)

    def _second(self, pair: Pair, key: Any, bound: dict[str, Any]) -> Any:
        """The second branch, and with it the first."""
        output = self._run_on(SECOND, key, bound)
        pair.complete(_tensors(output))
        self.request.completed = True
        return output

    def _run_on(self, rank: int, key: Any, bound: dict[str, Any]) -> Any:
        """A branch on the rank that runs it, and room for it on the other one.

        Raises:
            ValueError: on both ranks, if the one that runs it refuses what it is asked for.
        """
        is_here, is_known, output = self.mesh.get_local_rank() == rank, (rank, key) in self.forms, None
        told: list[Any] = [None]
        if is_here:
            try:
                output = tree_map(_contiguous, self.run(**bound))
                told = [tree_map(lambda x: Form(tuple(x.shape), x.dtype) if isinstance(x, Tensor) else x, output)]
            except ValueError as refusal:
                if is_known:
                    raise
                told = [ValueError(*refusal.args)]
        if not is_known:
            dist.broadcast_object_list(told, group=self.mesh.get_group(), group_src=rank)
            if isinstance(told[0], ValueError):
                self.request.pair = None
                raise told[0]
            self.forms[rank, key] = told[0]
        if is_here:
            return output
        device = _tensors(bound)[0].device
        return tree_map(
            lambda x: torch.full(x.shape, torch.nan, dtype=x.dtype, device=device) if isinstance(x, Form) else x,
            self.forms[rank, key],
        )

    def _alone(self) -> None:
        """A step has one branch: some do, but not the first."""
        self.in_one_batch.clear()  # the next step may have its two in one batch
        if not self.request.completed and not self.request.expects_two():
            self.request.pair = None
            why = ": its guidance is distilled, and guidance_scale is an input of it" if self.is_distilled else ""
            raise ValueError(
                f"cfg_size=2: this request runs {self.title} once a step, so there is no second branch to share "
                f"out{why}. Ask for one (a negative prompt, with true_cfg_scale or guidance_scale above 1 where the "
                f"model has them), or use these ranks otherwise: ulysses_size=2, or dp_size=2 for two pictures at once."
            )
        logging.getLogger("ditmesh").info("a step of %s has one branch; its second rank waits", self.title)

    def _is_doubled(self, latents: Any) -> bool:
        """Whether a batch holds the same latents twice, for the two branches; the ranks decide it as one."""
        if not isinstance(latents, Tensor | list) or (isinstance(latents, Tensor) and not latents.ndim):
            return False
        half = len(latents) // 2
        if not half or len(latents) % 2:
            return False
        halves = tree_leaves(latents[:half]), tree_leaves(latents[half:])
        same = len(halves[0]) == len(halves[1]) and all(map(torch.equal, *halves))
        decided = torch.tensor([same], dtype=torch.int32, device=halves[0][0].device)
        dist.broadcast(decided, group=self.mesh.get_group(), group_src=FIRST)
        return bool(decided.item())


def _tensors(tree: Any) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


def _contiguous(x: Any) -> Any:
    return x.contiguous() if isinstance(x, Tensor) else x


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


def apply_guidance_parallel(model: nn.Module, spec: ModelSpec, mesh: DeviceMesh, undo: ExitStack) -> Guidance:
    """Give each of two ranks one branch of guidance, in place.

    Args:
        model: the transformer ``spec`` describes.
        spec: its fact sheet.
        mesh: the two ranks.
        undo: takes what takes each change back.
    """
    is_distilled = isinstance(model, ConfigMixin) and bool(model.config.get("guidance_embeds"))
    guidance = Guidance(spec, argument_names(model), mesh, is_distilled)
    # Above the model's own hooks: a branch that another rank runs must not begin a forward here.
    guidance.run = intercept_call(model, guidance, undo)
    return guidance


def watch_guidance(pipe: Any, guidances: Sequence[Guidance], undo: ExitStack) -> None:
    """Let a pipeline's progress bar begin the requests, and its own word tell whether they have two branches."""
    progress_bar = pipe.progress_bar
    request = Request()
    guiders = [part.config for part in pipe.components.values() if isinstance(part, BaseGuidance)]
    if guiders:
        request.expects_two = lambda: any(x.get("start", 0) > 0 and x.get("guidance_scale", 1) > 1 for x in guiders)
    elif "do_classifier_free_guidance" in dir(type(pipe)):
        request.expects_two = lambda: bool(pipe.do_classifier_free_guidance)
    for guidance in guidances:
        guidance.request = request

    def begin_requests(*args: Any, **kwargs: Any) -> Any:
        for guidance in guidances:
            guidance.begin_request()
        return progress_bar(*args, **kwargs)

    override(pipe, "progress_bar", begin_requests, undo)
