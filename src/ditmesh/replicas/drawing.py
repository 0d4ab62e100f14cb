"""Draw requests on one rank: in step with the others of its replica, watched and stopped between the steps."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from ditmesh.job.classes import check_job
from ditmesh.job.description import Job
from ditmesh.job.devices import check_devices, dtype_of
from ditmesh.job.draw import NO_NUMBERS, call_pipeline, drawn_of, generators
from ditmesh.job.film import encode_film
from ditmesh.job.load import choose_adapters, prepare
from ditmesh.job.picture import encode
from ditmesh.replicas.messages import Answer, Drawn, Left, NotDrawn, Ready
from ditmesh.replicas.requests import Preview, Request, Result, Stepped
from ditmesh.runtime.gang import Gang, RanksLost, Stopped
from ditmesh.runtime.mesh import Axis, stops_mesh
from ditmesh.runtime.world import World
from ditmesh.upstream.partway import CALLBACK, Partway, no_way
from ditmesh.upstream.request import requests_of
from ditmesh.upstream.steps import Steps

MEDIA = {".png": "image/png", ".webp": "image/webp", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".mp4": "video/mp4"}

LOST = (torch.AcceleratorError, RanksLost)  # this rank, or another one, can draw no more


class Consent:
    """Whether the ranks of a replica leave a request between two steps: if any of them was told to.

    They compare after each step. Where stages of PipeFusion are a step apart they do by the next one, so that none has
    to wait, and all stop one step later.
    """

    def __init__(self, gang: Gang, lag: int):
        self._axis: Axis = stops_mesh(gang.mesh)
        self._lag, self._asked = lag, deque[tuple[torch.Tensor, Any]]()

    def begin(self) -> None:
        """Forget the last request."""
        self._asked.clear()

    def to_leave(self, mine: bool) -> bool:
        told = torch.tensor([int(mine)], dtype=torch.int32)  # on the CPU, so that no GPU is waited for
        group = self._axis.get_group()
        self._asked.append((told, dist.all_reduce(told, dist.ReduceOp.MAX, group=group, async_op=True)))
        if len(self._asked) <= self._lag:
            return False
        most, work = self._asked.popleft()
        work.wait()
        return bool(most)

    def end(self) -> None:
        """Take what is still on its way."""
        while self._asked:
            self._asked.popleft()[1].wait()


class Easel:
    """A pipeline that draws requests; all ranks of the replica call it with the same ones.

    Attributes:
        no_previews: why nothing can be shown on the way; empty if it can.
    """

    def __init__(self, pipe: Any, job: Job, leads: bool, say: Callable[[Any], None]):
        """``say`` tells the supervisor."""
        self._pipe, self._job, self._leads, self._say = pipe, job, leads, say
        requests = requests_of(pipe)
        gang = None if requests is None else requests.gang
        self._consent = None if gang is None else Consent(gang, lag=int(job.layout.pp_size > 1))
        self._own = list(pipe.get_active_adapters()) if job.lora and not job.lora.fuse else []
        self._adapters: tuple[tuple[str, float], ...] | None = ()  # those that are on, if that is known
        self._steps = Steps(pipe, [pipe.components[name] for name in job.facts.transformers], ExitStack())
        self.no_previews = no_way(pipe)

    def draw(self, request: Request, is_stopped: Callable[[], bool]) -> Answer:
        """Draw a request, or learn why it cannot be.

        Args:
            is_stopped: whether this rank was told to leave it.

        Raises:
            LOST: no other can be drawn either.
        """
        self._steps.begin()
        self._steps.between = self._between(request.id, is_stopped)
        if self._consent is not None:
            self._consent.begin()
        began = time.perf_counter()
        try:
            self._choose_adapters(request.lora)
            result = self._call(request)
        except Stopped:
            if self._consent is not None:
                self._consent.end()
            return Left(request.id, self._steps.done)
        except LOST:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a request makes the pipeline raise costs that one alone
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            return NotDrawn(request.id, words(error))
        done = time.perf_counter()
        if not self._leads:
            return Drawn(request.id, (), {})
        self._say(Stepped(request.id, self._steps.done + 1, self._steps.done + 1))
        try:
            results = self._results(request, result)
        except Exception as error:  # noqa: BLE001 - nor does one that no file can hold cost more
            return NotDrawn(request.id, words(error), in_step=True)
        stages = (began, self._steps.began, self._steps.left, done, time.perf_counter())
        names = ("text", "steps", "decode", "encode")
        return Drawn(request.id, results, {x: b - a for x, a, b in zip(names, stages, stages[1:], strict=False)})

    def _call(self, request: Request) -> Any:
        call, seeds, device = dict(request.call), request.seeds, self._job.noise_device
        if not request.previews or self.no_previews:
            result = call_pipeline(self._pipe, call, seeds, device)
        else:
            with Partway(self._pipe, self._steps, _evenly(request.previews), self._shows(request)) as partway:
                look = partway.callback(call, lambda: generators(seeds, device))
                result = call_pipeline(self._pipe, {**call, CALLBACK: look}, seeds, device)
            if partway.no_way:
                self.no_previews = partway.no_way
                self._say(Ready(self.no_previews))
        if self._consent is not None:
            self._consent.end()
        return result

    def _between(self, id: str, is_stopped: Callable[[], bool]) -> Callable[[int, int], None]:
        def between(done: int, steps: int) -> None:
            if self._leads and done:
                self._say(Stepped(id, done, steps))
            mine = is_stopped()
            if mine if self._consent is None else self._consent.to_leave(mine):
                raise Stopped

        return between

    def _shows(self, request: Request) -> Callable[[Any], None]:
        shown: list[int] = []

        def show(result: Any) -> None:
            if self._leads:
                film = drawn_of(self._pipe, result).films[0]
                suffix = ".jpg" if request.suffix == ".mp4" else request.suffix
                picture = encode(np.nan_to_num(film[0]), suffix, {}, request.quality)
                self._say(Preview(request.id, len(shown), picture))
                shown.append(len(shown))

        return show

    def _choose_adapters(self, chosen: tuple[tuple[str, float], ...]) -> None:
        if chosen != self._adapters:
            self._adapters = None  # until it has gone well
            choose_adapters(self._pipe, self._own, chosen)
            self._adapters = chosen

    def _results(self, request: Request, result: Any) -> tuple[Result, ...]:
        drawn = drawn_of(self._pipe, result)
        each, rest = divmod(len(drawn.films), len(request.seeds))
        if rest or not each:
            raise ValueError(f"the pipeline drew {len(drawn.films)} pictures for {len(request.seeds)} seeds")
        facts = [one for one in request.facts for _ in range(each)]
        return tuple(self._result(request, film, drawn, one) for film, one in zip(drawn.films, facts, strict=True))

    def _result(self, request: Request, film: np.ndarray, drawn: Any, facts: Mapping[str, object]) -> Result:
        height, width = film.shape[1:3]
        if not np.isfinite(film).all() or not (drawn.sound is None or np.isfinite(drawn.sound).all()):
            return Result(b"", MEDIA[request.suffix], facts, width, height, f"the pipeline drew {NO_NUMBERS}")
        if request.suffix == ".mp4":
            fps = request.fps or self._job.example.fps
            content = encode_film(film, fps, drawn.sound, drawn.rate, facts)
        else:
            content = encode(film[0], request.suffix, facts, request.quality)
        return Result(content, MEDIA[request.suffix], facts, width, height)


def set_up(job: Job, world: World, device: torch.device, say: Callable[[Any], None]) -> Easel:
    """Load the job on this rank; every rank of the world must.

    Raises:
        ValueError: the devices, the pipeline or its files cannot do what it asks for.
    """
    check_devices(job, world.ranks_here)
    job = check_job(job, world)
    pipe, _ = prepare(job, dtype_of(job, device), device)
    pipe.set_progress_bar_config(disable=True)
    return Easel(pipe, job, world.rank == 0, say)


def _evenly(previews: int) -> Callable[[int, int], bool]:
    """Whether to look after a step: as often as wanted, not after the last one.

    8 steps, 3 looks: after 2, 4 and 6.
    """
    return lambda done, steps: done in {round(steps * (i + 1) / (previews + 1)) for i in range(previews)} - {0, steps}


def words(error: BaseException) -> str:
    """An error in one line: what it says, and of what kind it is unless it is made for readers."""
    told = " ".join(str(error).split())
    return told if isinstance(error, ValueError) and told else f"{type(error).__name__}: {told}".rstrip(": ")
