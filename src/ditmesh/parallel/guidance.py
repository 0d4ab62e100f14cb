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
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from ditmesh.collectives import all_gather
from ditmesh.modules import argument_names, bind, override
from ditmesh.spec import ModelSpec, Split

FIRST, SECOND = 0, 1  # ranks, by the branch they run

# What may be asked of a tensor whose numbers are not there yet: its form, and views of it.
FORM = {"size", "dim", "numel", "stride", "is_floating_point", "is_complex", "is_contiguous", "__len__", "__get__"}
VIEWS = {"view", "narrow", "unsqueeze", "squeeze", "transpose", "permute", "chunk", "split", "unbind", "__get__"}
PLAIN_INDEX = int | slice | type(None) | type(Ellipsis)


@dataclass(frozen=True)
class Form:
    """What a tensor looks like, for a rank that does not have it."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class Promise(Tensor):
    """A tensor that another rank may still be working on; reading it waits for that rank."""

    pair: "Pair"

    @staticmethod
    def of(x: Tensor, pair: "Pair") -> "Promise":
        """The same memory, as a promise."""
        promise = x.as_subclass(Promise)
        promise.pair = pair
        return promise

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        promises = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Promise)]
        name = func.__name__
        is_view = name in VIEWS or (name == "__getitem__" and _is_plain(args[1]))
        if not is_view and name not in FORM:
            for promise in promises:
                promise.pair.settle()
        with torch._C.DisableTorchFunctionSubclass():
            out = func(*args, **(kwargs or {}))
            if is_view and not promises[0].pair.settled:
                return tree_map(lambda x: Promise.of(x, promises[0].pair) if isinstance(x, Tensor) else x, out)
        return out


def _is_plain(index: Any) -> bool:
    return all(isinstance(x, PLAIN_INDEX) for x in (index if isinstance(index, tuple) else (index,)))


class Pair:
    """The two branches of one step."""

    def __init__(self, mesh: DeviceMesh, output: Any, alone: Callable[[], None]):
        self.mesh, self.output, self.alone = mesh, output, alone
        self.first: list[Tensor] = tree_leaves(output)
        self.settled = False

    def settle(self) -> None:
        """Fill the promise although there is no second branch: the first rank sends what it has."""
        if self.settled:
            return
        self.alone()
        self.settled = True
        with torch._C.DisableTorchFunctionSubclass():
            for x in self.first:
                dist.broadcast(x, group=self.mesh.get_group(), group_src=FIRST)

    def complete(self, second: Sequence[Tensor]) -> None:
        """Exchange the branches: each rank has one of them, and leaves with both."""
        self.settled = True
        is_first = self.mesh.get_local_rank() == FIRST
        with torch._C.DisableTorchFunctionSubclass():
            for a, b in zip(self.first, second, strict=True):
                both = all_gather((a if is_first else b)[None], 0, [1, 1], self.mesh)
                (b if is_first else a).copy_(both[SECOND if is_first else FIRST])


class Guidance:
    """Runs one of the branches of a transformer on this rank.

    Attributes:
        request: how often a pipeline began one; what is found out about a request holds until then.
        expects_two: whether the pipeline says that the request under way has two branches.
    """

    def __init__(self, spec: ModelSpec, names: list[str], mesh: DeviceMesh, run: Callable[..., Any]):
        self.title, self.names, self.mesh, self.run = spec.title, names, mesh, run
        root = spec.cp_plan.get("", {})
        assert not isinstance(root, Split)
        self.cuts = root if isinstance(root, dict) else {}
        self.expects_two: Callable[[], bool] = lambda: False
        self.forms: dict[Any, Any] = {}
        self.begin_request()

    def begin_request(self) -> None:
        """Forget the last request."""
        self.pair: Pair | None = None
        self.in_one_batch: dict[Any, bool] = {}
        self.completed = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        bound = bind(self.names, args, kwargs)
        if self.pair is not None and not self.pair.settled:
            return self._second(self.pair, bound)
        key = _form_of(bound)
        if key not in self.in_one_batch:
            self.in_one_batch[key] = _is_doubled(next(iter(bound.values())))
        return self._half(bound) if self.in_one_batch[key] else self._first(key, bound)

    def _half(self, bound: dict[str, Any]) -> Any:
        """Both branches in one batch."""
        self.completed = True
        rank, latents = self.mesh.get_local_rank(), next(iter(bound.values()))
        batch = len(latents)
        mine = {name: self._halve(name, value, batch, isinstance(latents, list))[rank] for name, value in bound.items()}
        leaves, form = tree_flatten(self.run(**mine))
        if isinstance(latents, list) and len(leaves) == batch // 2:  # a picture each, in a list
            both = [all_gather(x[None], 0, [1, 1], self.mesh) for x in leaves]
            nested = tree_unflatten(leaves, form)
            return _relist(nested, [x[FIRST] for x in both] + [x[SECOND] for x in both])
        whole = [all_gather(x, 0, [len(x)] * 2, self.mesh) if isinstance(x, Tensor) else x for x in leaves]
        return tree_unflatten(whole, form)

    def _halve(self, name: str, value: Any, batch: int, listed: bool) -> tuple[Any, Any]:
        """An argument for each of the ranks; what has no batch is for both."""
        if isinstance(value, Tensor):
            cut = self.cuts.get(name)
            runs_along = isinstance(cut, Split) and cut.dim % value.ndim == 0
            if value.ndim and len(value) == batch and not runs_along:
                return value[: batch // 2], value[batch // 2 :]
        elif isinstance(value, list | tuple):
            if len(value) == batch and (listed or not any(isinstance(x, Tensor) for x in value)):
                return value[: batch // 2], value[batch // 2 :]
            halves = [self._halve(name, x, batch, listed) for x in value]
            return type(value)(a for a, _ in halves), type(value)(b for _, b in halves)
        elif isinstance(value, dict):
            pairs = {key: self._halve(name, x, batch, listed) for key, x in value.items()}
            return {key: a for key, (a, _) in pairs.items()}, {key: b for key, (_, b) in pairs.items()}
        return value, value

    def _first(self, key: Any, bound: dict[str, Any]) -> Any:
        """The first branch, or the promise of it."""
        is_first = self.mesh.get_local_rank() == FIRST
        output = tree_map(Tensor.contiguous, self.run(**bound)) if is_first else None
        if key not in self.forms:
            told = [tree_map(lambda x: Form(tuple(x.shape), x.dtype), output) if is_first else None]
            dist.broadcast_object_list(told, group=self.mesh.get_group(), group_src=FIRST)
            self.forms[key] = told[0]
        if not is_first:
            device = next(x.device for x in tree_leaves(bound) if isinstance(x, Tensor))
            output = tree_map(lambda x: torch.full(x.shape, torch.nan, dtype=x.dtype, device=device), self.forms[key])
        pair = self.pair = Pair(self.mesh, output, self._alone)
        return tree_map(lambda x: Promise.of(x, pair), output)

    def _second(self, pair: Pair, bound: dict[str, Any]) -> Any:
        """The second branch, and with it the first."""
        is_second = self.mesh.get_local_rank() == SECOND
        output = (
            tree_map(Tensor.contiguous, self.run(**bound)) if is_second else tree_map(torch.empty_like, pair.output)
        )
        pair.complete(tree_leaves(output))
        self.completed = True
        return output

    def _alone(self) -> None:
        """A step has one branch: some do, but not the first."""
        if not self.completed and not self.expects_two():
            raise ValueError(
                f"cfg_size=2: this request runs {self.title} once a step, so there is no second branch to share out. "
                f"Ask for one (a negative prompt, with true_cfg_scale or guidance_scale above 1 where the model has "
                f"them), or use these ranks otherwise: ulysses_size=2, or dp_size=2 for two pictures at once."
            )
        logging.getLogger("ditmesh").info("a step of %s has one branch; its second rank waits", self.title)


def _is_doubled(latents: Any) -> bool:
    """Whether a batch holds the same latents twice, for the two branches."""
    if len(latents) % 2:
        return False
    half = len(latents) // 2
    if isinstance(latents, Tensor):
        return torch.equal(latents[:half], latents[half:])
    return all(torch.equal(a, b) for a, b in zip(latents[:half], latents[half:], strict=True))


def _form_of(bound: dict[str, Any]) -> Any:
    return tuple((tuple(x.shape), x.dtype) if isinstance(x, Tensor) else None for x in tree_leaves(bound))


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
    guidance = Guidance(spec, argument_names(model), mesh, model._call_impl)
    # Above the model's own hooks: a branch that another rank runs must not begin a forward here.
    override(model, "_call_impl", guidance, undo)
    return guidance


def watch_guidance(pipe: Any, guidances: Sequence[Guidance], undo: ExitStack) -> None:
    """Let a pipeline's progress bar begin the requests, and its own word tell whether they have two branches."""
    progress_bar = pipe.progress_bar

    def begin_requests(*args: Any, **kwargs: Any) -> Any:
        for guidance in guidances:
            guidance.begin_request()
        return progress_bar(*args, **kwargs)

    override(pipe, "progress_bar", begin_requests, undo)
    if "do_classifier_free_guidance" in dir(type(pipe)):
        for guidance in guidances:
            guidance.expects_two = lambda: bool(pipe.do_classifier_free_guidance)
