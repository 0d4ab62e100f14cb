"""The requests of a pipeline: when one begins and ends.

A request is a call of a pipeline. The enabled pipeline gets a class of its own, in which that call is wrapped; name,
signature and all else are those of its stock class. A second pipeline over the same parts is found when it calls one of
them, and its calls are wrapped from the next one on; until the first one ends a thread looks whether it still runs.
"""

import inspect
import sys
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache, wraps
from types import FrameType
from typing import Any
from weakref import WeakSet

from diffusers.modular_pipelines.modular_pipeline import ModularPipeline, PipelineState
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import nn

from ditmesh.runtime.agreement import ADVICE_IF_FOUND, Agreement
from ditmesh.runtime.collectives import never_compiled
from ditmesh.runtime.gang import ENDED_EARLY, Gang, Stopped
from ditmesh.upstream.modules import argument_names, bind, override
from ditmesh.upstream.trees import tree_leaves

REQUESTS = "_ditmesh_requests"  # the attribute of a pipeline that holds the requests it takes part in
END = "maybe_free_model_hooks"  # what pipelines call when they have drawn
Listener = Callable[[], None]


class Requests:
    """The calls of an enabled pipeline, and of others over the same transformers.

    Attributes:
        at_beginning: forgets the request before. Called for every request, and for every denoising loop in one.
        at_end: finishes what is under way, while the ranks are together.
        at_failure: drops what is under way, without sending anything.
        pipe: the pipeline whose request is under way; without one, the enabled pipeline.
        gang: the ranks that draw it together; None if it is drawn by one.
    """

    def __init__(
        self,
        pipe: Any,
        transformers: Iterable[nn.Module],
        parts: Iterable[nn.Module],
        extras: Iterable[nn.Module],
        gang: Gang | None,
        undo: ExitStack,
    ):
        self.at_beginning: list[Listener] = []
        self.at_end: list[Listener] = []
        self.at_failure: list[Listener] = []
        self.pipe = self._enabled = pipe
        self._transformers = {id(model) for model in transformers}
        self._shared = self._transformers | {id(model) for model in extras}
        self.gang, self._agreement = gang, None if gang is None else Agreement(gang)
        self._is_called = False
        self._place: tuple[Any, Any] = None, None  # what is called, and the times of its denoising loop
        self._found: Any = None  # a pipeline whose first call is under way, which is not wrapped
        self._drew_apart = False  # and may have drawn noise before it was found
        self._of_found = ExitStack()
        self._watched: WeakSet[Any] = WeakSet()
        if callable(pipe):  # else it is parts in a row, which are called one by one
            self._watch(pipe)
        undo.callback(self._leave)
        # An autoencoder is not called itself.
        for part in {id(x): x for x in [*parts, *(x for model in extras for x in model.children())]}.values():
            hook = never_compiled(self._notice_part)
            undo.callback(part.register_forward_pre_hook(hook, with_kwargs=True, prepend=True).remove)

    def now(self) -> Hashable:
        """Something that changes between the steps of the pipeline, and not within one."""
        return clock(self.pipe)

    def notice(self, names: list[str], args: Any, kwargs: Any) -> None:
        """A transformer is called: begin, if it is in another request or another denoising loop than before."""
        call = self._current_call()
        times = getattr(getattr(self.pipe, "scheduler", None), "timesteps", None)
        if call is not self._place[0] or times is not self._place[1]:
            self._place = call, times
            _tell(self.at_beginning)
        if self._agreement is not None and self._drew_apart:
            self._drew_apart = False
            for latents in tree_leaves(bind(names, args, kwargs).get(names[0]))[:1]:
                self._agreement.check_noise(latents)

    def call(self, stock: Callable[..., Any], pipe: Any, args: Any, kwargs: Any) -> Any:
        """A pipeline is called: go through its request in step with the other ranks."""
        outer, self.pipe = self.pipe, pipe
        if self._is_called:  # by one that is under way
            try:
                return stock(pipe, *args, **kwargs)
            finally:
                self.pipe = outer
        self._leave_found()
        self._is_called, is_done = True, False
        try:
            with self._together(stock, pipe, args, kwargs):
                try:
                    _tell(self.at_beginning)
                    result = stock(pipe, *args, **kwargs)
                    _tell(self.at_end)
                    is_done = True
                except Stopped:
                    _tell(self.at_end)  # all ranks are between the same two steps
                    is_done = True
                    raise
                finally:
                    if not is_done:  # nothing that is under way may keep a group alive
                        _tell(self.at_failure)
            return result
        finally:
            self.pipe, self._is_called, self._place = self._enabled, False, (None, None)

    @contextmanager
    def _together(self, stock: Callable[..., Any], pipe: Any, args: Any, kwargs: Any) -> Iterator[None]:
        if self.gang is None or self._agreement is None:
            yield
            return
        with self.gang:
            given = inspect.signature(stock).bind(pipe, *args, **kwargs)
            given.apply_defaults()
            self._agreement.begin(_named(pipe, given.arguments))
            try:
                yield
            finally:
                self._agreement.end()

    def _current_call(self) -> Any:
        """What tells the call under way from others; None if no pipeline is called."""
        if self._is_called:
            return self
        for pipe, frame in _called_pipelines():
            if pipe is self._found:
                return pipe
            if REQUESTS not in vars(pipe) and self._shared & {id(part) for part in pipe.components.values()}:
                self._find(pipe, frame)
                return pipe
        return None

    def _notice_part(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if id(module) in self._transformers:
            self.notice(argument_names(module), args, kwargs)
        else:
            self._current_call()

    def _find(self, pipe: Any, frame: FrameType) -> None:
        """A pipeline that is not wrapped calls its first part: its ranks go on in step, and fail together."""
        self._leave_found()
        self._watch(pipe)
        self.pipe = self._found = pipe
        self._of_found.callback(self._lose)
        if self.gang is not None and END in frame.f_code.co_names:
            self.gang.begin(_runs(frame))
            self._of_found.push(self.gang)
        if isinstance(pipe, DiffusionPipeline):
            free_hooks = pipe.maybe_free_model_hooks

            def end() -> None:
                _tell(self.at_end)
                self._of_found.close()
                free_hooks()

            override(pipe, END, end, self._of_found)
        if self._agreement is not None:
            self._agreement.begin(_named(pipe, frame.f_locals), ADVICE_IF_FOUND)
            self._of_found.callback(self._agreement.end)
            self._drew_apart = True

    def _leave_found(self) -> None:
        """Go on to another call; one that was found and does not run any more has failed, on this rank at least."""
        runs = any(pipe is self._found for pipe, _ in _called_pipelines())
        error = None if runs else RuntimeError(ENDED_EARLY)
        self._of_found.__exit__(error and type(error), error, None)

    def _lose(self) -> None:
        self.pipe, self._found, self._drew_apart, self._place = self._enabled, None, False, (None, None)

    def _watch(self, pipe: Any) -> None:
        vars(pipe)[REQUESTS] = self
        pipe.__class__ = _wrapped(type(pipe))
        self._watched.add(pipe)

    def _leave(self) -> None:
        """Leave every pipeline its stock class."""
        self._leave_found()
        for pipe in self._watched:
            pipe.__class__ = type(pipe).__base__
            vars(pipe).pop(REQUESTS, None)


def requests_of(pipe: Any) -> Requests | None:
    """Those of an enabled pipeline; None of any other."""
    return vars(pipe).get(REQUESTS)


def clock(pipe: Any) -> Hashable:
    """Something that changes between the steps of a pipeline, and not within one."""
    # A scheduler that does not count its steps belongs to a pipeline that calls the transformer once in each.
    return getattr(getattr(pipe, "scheduler", None), "step_index", object())


@cache
def _wrapped(stock: type) -> type:
    """A class like ``stock`` whose calls are requests."""
    stock_call: Any = stock.__call__

    @wraps(stock_call)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return vars(self)[REQUESTS].call(stock_call, self, args, kwargs)

    def deepcopy(self: Any, memo: dict[int, Any]) -> Any:
        raise ValueError(
            f"a copy of this {stock.__name__} would share its ranks with it; call ditmesh.disable_cache, copy it, and "
            f"enable both."
        )

    own = {"__call__": call, "__deepcopy__": deepcopy, "__module__": stock.__module__, "__doc__": stock.__doc__}
    return type(stock.__name__, (stock,), own | {"__qualname__": stock.__qualname__})


def _called_pipelines() -> Iterator[tuple[Any, FrameType]]:
    """The pipelines whose calls are under way, from the innermost on, each with its call."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "__call__" and "self" in frame.f_code.co_varnames[:1]:
            owner = frame.f_locals.get("self")
            if isinstance(owner, DiffusionPipeline | ModularPipeline):
                yield owner, frame
        frame = frame.f_back


def _runs(frame: FrameType) -> Callable[[], bool]:
    """Whether a call is under way, for any thread to ask, without keeping alive what it holds."""
    thread, place, code = threading.get_ident(), id(frame), frame.f_code

    def is_under_way() -> bool:
        frame = sys._current_frames().get(thread)
        while frame is not None and (id(frame) != place or frame.f_code is not code):
            frame = frame.f_back
        return frame is not None

    return is_under_way


def _named(pipe: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a pipeline's call by name, those of ``**kwargs`` and of a modular pipeline's state as well."""
    named: dict[str, Any] = {"the pipeline": type(pipe).__name__}
    for name, parameter in inspect.signature(pipe.__call__).parameters.items():
        x = given.get(name)
        if isinstance(x, PipelineState):
            named |= x.values
        elif parameter.kind is parameter.VAR_KEYWORD:
            named |= x or {}
        else:
            named[name] = x
    return named


def _tell(listeners: list[Listener]) -> None:
    for listener in listeners:
        listener()
