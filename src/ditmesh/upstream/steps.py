"""The steps of a pipeline's request, one after the other, and a place between them for whoever watches or ends it."""

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any

from torch import nn

from ditmesh.upstream.modules import held, intercept_call
from ditmesh.upstream.request import clock

Between = Callable[[int, int], None]


class Steps:
    """Counts the steps of a request where its transformers are called, whatever the pipeline and the layout.

    A step begins with the first call of a transformer since the scheduler went on. This stands above all that a layout
    and a cache put around the transformer, so that every rank counts alike.

    Attributes:
        between: called before each step, with the number of steps that are done, and how many there are to be. What it
            raises ends the request.
        instead: raised where a transformer is called, for as long as none is to run.
        done: steps that are done, -1 before the first.
        began, left: when the first step began, and when a transformer returned last, by the clock of ``time``.
    """

    def __init__(self, pipe: Any, transformers: Iterable[nn.Module], undo: ExitStack):
        self._pipe = pipe
        self.between: Between = lambda done, steps: None
        self.instead: Exception | None = None
        self.begin()
        for model in transformers:
            runs: list[Callable[..., Any]] = []
            runs.append(intercept_call(model, partial(self._call, runs), undo))

    def begin(self) -> None:
        """Forget the last request."""
        self.done, self.began, self.left = -1, 0.0, 0.0
        self._at: object = object()
        self._times: object = None  # of the denoising loop under way
        self._before = 0  # steps of the loops before it

    def _call(self, runs: list[Callable[..., Any]], *args: Any, **kwargs: Any) -> Any:
        if self.instead is not None:
            raise self.instead
        now = clock(self._pipe)
        if now != self._at:
            self._at, self.done = now, self.done + 1
            self.began = self.began or time.perf_counter()
            self.between(self.done, self._total())
        try:
            return runs[0](*args, **kwargs)
        finally:
            self.left = time.perf_counter()

    def _total(self) -> int:
        times = held(held(self._pipe, "scheduler"), "timesteps") if "scheduler" in vars(self._pipe) else None
        if times is not self._times:
            self._times, self._before = times, self.done
        of_loop = held(self._pipe, "_num_timesteps") or (0 if times is None else len(times))
        return max(self._before + of_loop, self.done + 1)
