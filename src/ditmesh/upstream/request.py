"""The requests of a pipeline: when one begins and ends.

A request is a call of a pipeline. The enabled pipeline gets a class of its own, in which that call is wrapped; name,
signature and all else are those of its stock class. A second pipeline over the same parts is found when it calls one of
them, and its calls are wrapped from the next one on.
"""

import inspect
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, wraps
from typing import Any

from diffusers.modular_pipelines.modular_pipeline import ModularPipeline
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import nn

from ditmesh.runtime.agreement import alike, share_randomness
from ditmesh.runtime.gang import Gang

REQUESTS = "_ditmesh_requests"  # the attribute of a pipeline that holds the requests it takes part in
Listener = Callable[[], None]


class Requests:
    """The calls of an enabled pipeline, and of others over the same transformers.

    Attributes:
        at_beginning: forgets the request before. Called for every request, and for every denoising loop in one.
        at_end: finishes what is under way, while the ranks are together.
        at_failure: drops what is under way, without sending anything.
        pipe: the pipeline whose request is under way; without one, the enabled pipeline.
    """

    def __init__(self, pipe: Any, transformers: Iterable[nn.Module], parts: Iterable[nn.Module], undo: ExitStack):
        self.at_beginning: list[Listener] = []
        self.at_end: list[Listener] = []
        self.at_failure: list[Listener] = []
        self.gang: Gang | None = None  # the ranks that draw a picture together, if they are several
        self.pipe = self._enabled = pipe
        self._transformers = {id(model) for model in transformers}
        self._is_called, self._unwrap = False, undo.enter_context(ExitStack())  # pipelines are found later, too
        self._place: tuple[Hashable, Any] = None, None  # the call, and the times of its denoising loop
        self._watch(pipe)
        for part in parts:
            undo.callback(part.register_forward_pre_hook(self._notice_part, prepend=True).remove)

    def now(self) -> Hashable:
        """Something that changes between the steps of the pipeline, and not within one."""
        scheduler = getattr(self.pipe, "scheduler", None)
        # A scheduler that does not count its steps belongs to a pipeline that calls the transformer once in each.
        return getattr(scheduler, "step_index", object())

    def notice(self) -> None:
        """A transformer is called: begin, if it is in another request or another denoising loop than before."""
        call = self._current_call()
        times = getattr(getattr(self.pipe, "scheduler", None), "timesteps", None)
        if call != self._place[0] or times is not self._place[1]:
            self._place = call, times
            _tell(self.at_beginning)

    def call(self, stock: Callable[..., Any], pipe: Any, args: Any, kwargs: Any) -> Any:
        """A pipeline is called: go through its request in step with the other ranks."""
        if self._is_called:  # by one that is under way
            return stock(pipe, *args, **kwargs)
        self.pipe, self._is_called, is_done = pipe, True, False
        try:
            with self._together(stock, pipe, args, kwargs):
                _tell(self.at_beginning)
                result = stock(pipe, *args, **kwargs)
                _tell(self.at_end)
            is_done = True
            return result
        finally:
            self.pipe, self._is_called, self._place = self._enabled, False, (None, None)
            if not is_done:
                _tell(self.at_failure)

    @contextmanager
    def _together(self, stock: Callable[..., Any], pipe: Any, args: Any, kwargs: Any) -> Iterator[None]:
        if self.gang is None:
            yield
            return
        given = inspect.signature(stock).bind_partial(pipe, *args, **kwargs).arguments
        given = {"the pipeline": type(pipe).__name__} | dict(list(given.items())[1:])
        with self.gang, alike(self.gang, given):
            yield

    def _current_call(self) -> Hashable:
        """What tells the call under way from others; None if no pipeline is called."""
        if self._is_called:
            return id(self)
        for pipe, frame in _called_pipelines():
            if REQUESTS in vars(pipe) or self._transformers & {id(part) for part in pipe.components.values()}:
                if REQUESTS not in vars(pipe):
                    self._watch(pipe)
                self.pipe = pipe
                return frame
        self.pipe = self._enabled
        return None

    def _notice_part(self, module: nn.Module, args: Any) -> None:
        """A part is called: the ranks of a pipeline that is not wrapped yet go on with the same randomness."""
        if self._is_called or self.gang is None:
            return
        call = self._current_call()
        if call is not None and call != self._place[0]:
            self._place = call, None
            share_randomness(self.gang)

    def _watch(self, pipe: Any) -> None:
        stock = type(pipe)
        vars(pipe)[REQUESTS] = self
        pipe.__class__ = _wrapped(stock)
        self._unwrap.callback(setattr, pipe, "__class__", stock)
        self._unwrap.callback(vars(pipe).pop, REQUESTS, None)


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


def _called_pipelines() -> Iterator[tuple[Any, Hashable]]:
    """The pipelines whose calls are under way, from the innermost on, each with what tells this call from others."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "__call__" and "self" in frame.f_code.co_varnames[:1]:
            owner = frame.f_locals["self"]
            if isinstance(owner, DiffusionPipeline | ModularPipeline):
                yield owner, id(frame)
        frame = frame.f_back


def _tell(listeners: list[Listener]) -> None:
    for listener in listeners:
        listener()
