"""What ranks run for the tests of stages that overlap across steps: a pipeline's loop with a scheduler of diffusers."""

import copy
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from torch import Tensor, nn

import ditmesh
from ditmesh.upstream.deferred import Deferred
from tests.counting import CommunicationCounter
from tests.parallel.pipefusion import ORACLES, Oracle, config, deep
from tests.transformers import InFloat64, Inputs, forward

STEPS = 5


class Broken(Exception):
    """Somebody's own code failed."""


class Pipe:
    """As much of a pipeline as makes latents.

    Attributes:
        predict: runs the transformer.
        between: what happens to output and latents before the scheduler steps.
        after: what happens to the latents then.
        kept: what somebody keeps of the steps.
        end: the step after which it stops.
    """

    def __init__(self, model: nn.Module, scheduler: Any):
        self.components = {"transformer": model}
        self.scheduler = scheduler
        self.predict: Callable[[Inputs], Tensor] = lambda inputs: forward(model, inputs)
        self.between: Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]] = lambda i, noise, x: (noise, x)
        self.after: Callable[[int, Tensor], Tensor] = lambda i, x: x
        self.kept: list[Tensor] = []
        self.end = STEPS

    def progress_bar(self) -> None:
        self.kept = []

    def maybe_free_model_hooks(self) -> None:
        """Pipelines call it at the end."""

    def __call__(self, inputs: Inputs) -> Tensor:
        self.scheduler.set_timesteps(STEPS)
        self.scheduler.set_begin_index(0)
        self.progress_bar()
        x = inputs["hidden_states"]
        with InFloat64():
            for i, t in enumerate(self.scheduler.timesteps[: self.end]):
                now = torch.full_like(inputs["timestep"], float(t) / 1000)
                noise = self.predict(inputs | {"hidden_states": x, "timestep": now})
                noise, x = self.between(i, noise, x)
                x = self.after(i, self.scheduler.step(noise, t, x, return_dict=False)[0])
        self.maybe_free_model_hooks()
        return x


# What pipelines and callbacks do beside what every pipeline does.


def reads(pipe: Pipe) -> None:
    pipe.after = lambda i, x: x if x.mean().isfinite() else -x


def reads_once(pipe: Pipe) -> None:
    pipe.after = lambda i, x: -x if i == 2 and x.mean() > 0 else x


def one_rank_reads(pipe: Pipe) -> None:
    """As a callback does that only one rank was given."""
    pipe.after = lambda i, x: x if dist.is_initialized() and dist.get_rank() else x.neg().neg()


def changes(pipe: Pipe) -> None:
    pipe.after = lambda i, x: x * 1.01 if i % 2 else x


def writes(pipe: Pipe) -> None:
    pipe.after = lambda i, x: x.mul_(1.01) if i == 2 else x


def writes_before(pipe: Pipe) -> None:
    """The latents change after the transformer was given them."""
    pipe.between = lambda i, noise, x: (noise, x.mul_(1.01) if i in (1, 3) else x)


def scales(pipe: Pipe) -> None:
    """The output is another one than the transformer's, in some of the steps."""
    pipe.between = lambda i, noise, x: (noise * 1.5, x) if i in (2, 3) else (noise, x)


def looks_back(pipe: Pipe) -> None:
    """Somebody reads the output after the scheduler did, and the latents of the step before."""

    def between(i: int, noise: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        pipe.kept += [noise, x]
        return noise, x

    pipe.between = between
    pipe.after = lambda i, x: x + (pipe.kept[-2] + pipe.kept[-3]).mean() if i == 3 else x


def views(pipe: Pipe) -> None:
    """The same in another way: nothing has to be there for that."""
    pipe.between = lambda i, noise, x: (noise[:, : x.shape[1]].to(x.dtype), x)
    pipe.after = lambda i, x: x.to(x.device).view(x.shape)


def stops(pipe: Pipe) -> None:
    pipe.end = 3


BESIDE = (reads, reads_once, one_rank_reads, changes, writes, writes_before, scales, looks_back, views, stops)
HABITS = {habit.__name__: habit for habit in BESIDE}


def given(name: str, seed: int) -> tuple[nn.Module, Inputs]:
    """A model that computes in float64 whenever it is run, and a request's inputs."""
    model, steps = deep(name, seed)
    stock = model.forward

    def run(*args: Any, **kwargs: Any) -> Any:
        with InFloat64():
            return stock(*args, **kwargs)

    model.forward = run
    return model, steps[0]


def one_process(name: str, patches: int, warmup: int, habit: str = "", seed: int = 0, scheduler: str = "") -> Tensor:
    """The latents that the written algorithm makes."""
    pipe = Pipe(given(name, 0)[0], flow_scheduler(scheduler))
    inputs, stock = given(name, seed)[1], pipe.predict
    text, earlier, _ = ORACLES[name]
    oracle = Oracle(patches, warmup, text, earlier)

    def predict(inputs: Inputs) -> Tensor:
        with oracle:
            return stock(inputs)

    pipe.predict = predict
    HABITS.get(habit, lambda pipe: None)(pipe)
    return pipe(inputs)


def flow_scheduler(name: str) -> Any:
    if name == "multistep":  # remembers outputs of earlier steps
        return UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
    return FlowMatchEulerDiscreteScheduler(shift=3.0, stochastic_sampling=name == "noisy")


def enabled(name: str, layout: str, patches: int, warmup: int = 1, habit: str = "", scheduler: str = "") -> Pipe:
    """A loop that is spread over a layout."""
    pipe = Pipe(given(name, 0)[0], flow_scheduler(scheduler))
    HABITS.get(habit, lambda pipe: None)(pipe)
    return ditmesh.enable_cache(
        pipe, parallelism_config=config(layout, num_pipeline_patch=patches, warmup_steps=warmup)
    )


def requests(
    name: str,
    layout: str,
    settings: list[tuple[int, int]],
    habit: str = "",
    seeds: tuple[int, ...] = (0,),
    **kwargs: Any,
) -> list[list[tuple[Tensor, int]]]:
    """The latents of requests for each of the settings (patches, warm-up), and how often all stages waited."""
    found = []
    for patches, warmup in settings:
        pipe = enabled(name, layout, patches, warmup, habit, **kwargs)
        made = []
        for seed in seeds:
            torch.manual_seed(0)  # a scheduler may draw from it
            with CommunicationCounter() as counter:
                made.append((pipe(given(name, seed)[1]), counter.calls["broadcast_"]))
        ditmesh.disable_cache(pipe)
        found.append(made)
    return found


def aborted(where: str) -> Tensor:
    """A request after one that failed, in the pipeline's own code or in the transformer; and what that one kept."""
    pipe = enabled("flux", "pp2", 3)
    model, inputs = pipe.components["transformer"], given("flux", 0)[1]

    def fail(*args: Any) -> None:
        raise Broken

    def after(i: int, x: Tensor) -> Tensor:
        pipe.kept.append(x)
        if i == 2 and where == "pipeline":
            raise Broken
        if i == 2:
            hooks.append(model.register_forward_pre_hook(fail))
        return x

    hooks: list[Any] = []
    pipe.after = after
    # The other rank may hear of a failure before it comes to its own.
    with pytest.raises((Broken, RuntimeError)):
        pipe(inputs)
    late = pipe.kept[-1]
    if isinstance(late, Deferred) and not late.source.settled:
        with pytest.raises(RuntimeError, match="their request failed"):
            late + 0
    for hook in hooks:
        hook.remove()
    pipe.after = lambda i, x: x
    return pipe(given("flux", 1)[1])


def kept(patches: int) -> list[Tensor]:
    """The latents of all steps, kept by one rank alone and read after the request."""
    pipe, is_first = enabled("flux", "pp2", patches), dist.get_rank() == 0
    if is_first:
        pipe.after = lambda i, x: pipe.kept.append(x) or x
    pipe(given("flux", 0)[1])
    return [x.clone() for x in pipe.kept]


def first_goes_on(folder: Path, patches: int) -> bool:
    """Whether the first stage begins a step while the last one is still kept from the last patch of the step before.

    The second step after the warm-up is the one that is kept waiting: until the third has begun.
    """
    pipe, begun, is_first = enabled("flux", "pp2", patches), folder / "begun", dist.get_rank() == 0
    calls: Counter[int] = Counter()
    in_time: list[bool] = []

    def watch(*args: Any) -> None:
        step = pipe.scheduler.step_index  # the scheduler goes on before the patches of a step run
        calls[step] += 1
        if is_first and step == 3:
            begun.touch()
        if not is_first and (step, calls[step]) == (2, patches):
            deadline = time.monotonic() + 20
            while not begun.exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            in_time.append(begun.exists())

    pipe.components["transformer"].register_forward_pre_hook(watch)
    pipe(given("flux", 0)[1])
    return is_first or in_time == [True]


def cost_of_steps(layout: str, patches: int) -> list[tuple[dict[str, int], dict[str, int]]]:
    """Calls and bytes of each step after the warm-up on a rank."""
    pipe, counts = enabled("flux", layout, patches), []

    def after(i: int, x: Tensor) -> Tensor:
        counts.append((dict(counter.calls), dict(counter.bytes)))
        counter.calls.clear()
        counter.bytes.clear()
        return x

    pipe.after = after
    with CommunicationCounter() as counter:
        pipe(given("flux", 0)[1])
    return counts[1:]


def steps_of_a_copy() -> tuple[int, int]:
    """Where a pipeline's scheduler is, and a copy of it that has stepped."""
    pipe = enabled("flux", "pp2", 2)
    pipe.scheduler.set_timesteps(STEPS)
    pipe.scheduler.set_begin_index(0)
    other, x = copy.deepcopy(pipe.scheduler), torch.ones(1, 2, 3)
    for t in other.timesteps[:3]:
        x = other.step(x, t, x)[0]
    pipe.scheduler.step(x, pipe.scheduler.timesteps[0], x)
    return pipe.scheduler.step_index, other.step_index
