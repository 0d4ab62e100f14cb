"""Which step of its request a forward of a transformer belongs to, and which branch of guidance."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor, nn

from ditmesh.runtime.mesh import Axis
from ditmesh.upstream.modules import argument_names
from ditmesh.upstream.request import Requests

Branch = tuple[str, int]


class Session:
    """Names the branch of each forward, and counts the steps of a request.

    A pipeline names its branches by diffusers' ``cache_context`` ("cond", "uncond"), or calls the transformer for each
    of them before its scheduler goes on. Without a pipeline every forward is a step, unless the branches take turns.

    Attributes:
        requests: those of the pipeline that calls the transformer; None without a pipeline.
        halves_mesh: the ranks that share this forward's batch, if each has half of it.
        step: of this request, from 0.
        forward: a number for each forward.
        branch: the name given, and which of the forwards of that name in this step it is.
        shapes: of the tensors the forward was given, whole, so that they are the same on all ranks.
    """

    def __init__(self, requests: Requests | None) -> None:
        self.requests = requests
        self.halves_mesh: Callable[[], Axis | None] = lambda: None
        self.forgetters: list[Callable[[], None]] = []
        if requests is not None:
            requests.at_beginning.append(self.begin_request)
        self.name = ""
        self.shapes: Any = None
        self.forward = 0
        self.configure(None, None)

    def configure(self, takes_turns: bool | None, length: int | None) -> None:
        """Begin a request in which the branches take turns, or not, or one has to find out; of so many steps."""
        self.takes_turns, self.length = takes_turns, length
        self.begin_request()

    def begin_request(self) -> None:
        """Forget the last request."""
        self.step = -1
        self.time: Hashable = object()
        self.seen: list[Branch] = []
        for forget in self.forgetters:
            forget()

    def begin_forward(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Find out where the forward that begins belongs; a pre-hook of the transformer.

        Raises:
            ValueError: a second branch, and the config says there is none.
        """
        if self.requests is not None:
            self.requests.notice(argument_names(module), args, kwargs)
        self.forward += 1
        self.shapes = _shapes([*args, *kwargs.values()])
        time, branch = None if self.requests is None else self.requests.now(), (self.name, 0)
        if time != self.time or self._is_next(branch):
            if self.requests is None and self.length is not None and self.step + 1 >= self.length:
                self.begin_request()
            self.time, self.step, self.seen = time, self.step + 1, []
        elif not self.name:
            branch = ("", sum(not name for name, _ in self.seen))
        self.branch = branch
        self.seen.append(branch)
        if self.takes_turns is False and len(self.seen) > 1:
            raise ValueError(
                "enable_separate_cfg=False, but the transformer runs more than once a step here; "
                "leave enable_separate_cfg out, and the branches are told apart."
            )

    def _is_next(self, branch: Branch) -> bool:
        """Whether a forward begins a step, where no clock says that it does."""
        if self.name:
            return branch in self.seen
        return self.requests is None and not (self.takes_turns and len(self.seen) == 1)

    def watch(self, cache_context: Callable[..., AbstractContextManager[Any]]) -> Callable[..., Any]:
        """A model's ``cache_context`` that also tells this session the name."""

        @contextmanager
        def context(name: str, **more: Any) -> Iterator[None]:
            before, self.name = self.name, name
            try:
                with cache_context(name, **more):
                    yield
            finally:
                self.name = before

        return context


def _shapes(values: object) -> Any:
    if isinstance(values, Tensor):
        return tuple(values.shape)
    if isinstance(values, dict):
        return _shapes(list(values.values()))
    return [_shapes(value) for value in values] if isinstance(values, list | tuple) else None
