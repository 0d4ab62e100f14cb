"""What a pipeline would draw of the latents it has by now: its own way from latents to a picture, without its steps.

A second pipeline over the same parts is called with the same arguments. It skips its steps, as pipelines do that are
interrupted, and begins with the latents that are there. Nothing of the first one changes: the second has a scheduler,
generators and notes of its own, and no transformer runs.
"""

import copy
import inspect
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from ditmesh.upstream.modules import override
from ditmesh.upstream.request import REQUESTS
from ditmesh.upstream.steps import Steps
from ditmesh.upstream.trees import map_tensors

CALLBACK, NEEDED = "callback_on_step_end", ("interrupt", "prepare_latents")
Look = Callable[[Any, Mapping[str, Any]], None]


def no_way(pipe: Any) -> str:
    """Why nothing can be seen of a pipeline's picture before it is done; empty if it can."""
    kind = type(pipe)
    missing = [name for name in NEEDED if name not in dir(kind)]
    if "interrupt" not in missing and "interrupt" not in inspect.unwrap(kind.__call__).__code__.co_names:
        missing.append("interrupt that its steps ask for")
    if CALLBACK not in inspect.signature(kind.__call__).parameters:
        missing.append(CALLBACK)
    return f"a {kind.__name__} has no {' and no '.join(missing)}" if missing else ""


class _NoWay(Exception):
    """The second pipeline takes other latents than the first one has."""


class Partway:
    """Looks at a request of a pipeline between its steps.

    Use it as a context around the call, which gets ``callback`` as its ``callback_on_step_end``. Every rank does.

    Attributes:
        no_way: why nothing was to be seen, once that has turned out; empty if all was well.
    """

    def __init__(self, pipe: Any, steps: Steps, wanted: Callable[[int, int], bool], show: Callable[[Any], None]):
        """
        Args:
            steps: those of the pipeline.
            wanted: whether to look after so many steps of so many.
            show: takes the pipeline's own result.
        """
        self._pipe, self._steps, self._wanted, self._show = pipe, steps, wanted, show
        self._encoded: list[Any] = []  # what the pipeline made of the prompts, to be used again
        self._undo = ExitStack()
        self._done, self.no_way = 0, ""

    def __enter__(self) -> "Partway":
        if "encode_prompt" in dir(self._pipe):
            encode = self._pipe.encode_prompt

            def encode_prompt(*args: Any, **kwargs: Any) -> Any:
                self._encoded.append(made := encode(*args, **kwargs))
                return made

            override(self._pipe, "encode_prompt", encode_prompt, self._undo)
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def callback(self, call: Mapping[str, Any], seeds: Callable[[], Any]) -> Callable[..., dict[str, Any]]:
        """What the pipeline is to call after each step.

        Args:
            call: the arguments of the pipeline's call.
            seeds: makes the generators anew.
        """

        def look(pipe: Any, step: int, time: Any, there: dict[str, Any]) -> dict[str, Any]:
            self._done += 1
            if not self.no_way and "latents" in there and self._wanted(self._done, pipe.num_timesteps):
                second = self._second(pipe, there["latents"])
                devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
                self._steps.instead = _NoWay(f"a {type(second).__name__} runs its transformer though it is interrupted")
                try:
                    with torch.random.fork_rng(devices):
                        result = second(**call, generator=seeds(), output_type="np")
                except _NoWay as error:  # on all ranks: it is about shapes and calls alone
                    self.no_way = str(error)
                else:
                    self._show(result)
                finally:
                    self._steps.instead = None
            return {}

        return look

    def _second(self, pipe: Any, latents: Tensor) -> Any:
        """A pipeline over the same parts that goes from these latents straight to the picture."""
        stock = type(pipe).__base__ if REQUESTS in vars(pipe) else type(pipe)
        assert stock is not None
        own = {"interrupt": property(lambda self: True), "__module__": stock.__module__}
        second: Any = object.__new__(type(stock.__name__, (stock,), own))
        vars(second).update(vars(pipe), scheduler=copy.deepcopy(pipe.scheduler))
        prepare, prepared, encoded = second.prepare_latents, list[int](), iter(list(self._encoded))

        def prepare_latents(*args: Any, **kwargs: Any) -> Any:
            made = prepare(*args, **kwargs)
            first = made[0] if isinstance(made, tuple) else made
            if first.shape != latents.shape:
                raise _NoWay(f"a {stock.__name__} has latents of another shape in its steps than before them")
            if prepared:
                raise _NoWay(f"a {stock.__name__} draws in several goes, each with latents of its own")
            prepared.append(1)
            return (latents.clone(), *made[1:]) if isinstance(made, tuple) else latents.clone()

        vars(second)["prepare_latents"] = prepare_latents
        if self._encoded:
            vars(second)["encode_prompt"] = lambda *args, **kwargs: map_tensors(Tensor.clone, next(encoded))
        return second
