"""One training loop for both stages: averaged weights, and checkpoints to go on from."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

SAVE_EVERY_SECONDS = 120


@dataclass
class Trainee:
    """What the loop needs: `loss(step, share)` may depend on nothing but the weights and these two numbers."""

    name: str
    modules: torch.nn.ModuleDict
    optimizers: list[torch.optim.Optimizer]  # with their peak learning rates
    loss: Callable[[int, int], torch.Tensor]
    shares: int  # of a batch, each on its own thread; their mean is the batch's loss
    rising: int  # steps until the peak learning rate is reached
    cycles: tuple[tuple[int, int], ...]  # (end, falling): the rate falls to nothing in the last `falling` steps
    averaging: float  # the share of the average that one step keeps

    def rate(self, step: int) -> float:
        """Share of the peak learning rates: up at first, then level and down in each cycle."""
        end, falling = next(cycle for cycle in self.cycles if step < cycle[0])
        return min(1.0, (step + 1) / self.rising, (end - step) / falling)

    def backward(self, step: int, threads: ThreadPoolExecutor) -> float:
        """Leave the gradients of one step in the weights; returns the loss."""

        def one(share: int) -> float:
            loss = self.loss(step, share) / self.shares
            loss.backward()
            return loss.item()

        return sum(threads.map(one, range(self.shares)))


def train(trainee: Trainee, folder: Path, report: Callable[[], str]) -> None:
    """Train `trainee.modules` and leave the averaged weights in them; goes on from `folder` where it was cut off.

    `report` is called with the averaged weights in place.
    """
    parameters = dict(trainee.modules.named_parameters())
    steps = trainee.cycles[-1][0]
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in trainee.optimizers]
    average = {name: value.detach().clone() for name, value in parameters.items()}
    checkpoint, begin = folder / f"{trainee.name}.pt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        begin, average = saved["step"], saved["average"]
        trainee.modules.load_state_dict(saved["modules"])
        for optimizer, state in zip(trainee.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
    threads = ThreadPoolExecutor(trainee.shares)
    started = saved_at = time.monotonic()
    for step in range(begin, steps):
        trainee.modules.zero_grad()
        loss = trainee.backward(step, threads)
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        for optimizer, peak in zip(trainee.optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * trainee.rate(step)
            optimizer.step()
        keep = min(trainee.averaging, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(average.values()), [p.detach() for p in parameters.values()], 1 - keep)
        if step % 100 == 0:
            print(f"{trainee.name} step {step} loss {loss:.4f} {time.monotonic() - started:.0f} s", flush=True)
        if step + 1 == steps or time.monotonic() - saved_at > SAVE_EVERY_SECONDS:
            state = {"step": step + 1, "modules": trainee.modules.state_dict(), "average": average}
            state["optimizers"] = [optimizer.state_dict() for optimizer in trainee.optimizers]
            save(state, checkpoint)
            saved_at = time.monotonic()
            with averaged(parameters, average):
                print(f"{trainee.name} step {step + 1}: {report()}", flush=True)
    put(parameters, average)


def save(state: dict, path: Path) -> None:
    """Write next to `path` and rename, so that a cut-off write leaves the older checkpoint whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    torch.save(state, unfinished)
    unfinished.replace(path)


def load_average(modules: torch.nn.ModuleDict, checkpoint: Path) -> None:
    put(dict(modules.named_parameters()), torch.load(checkpoint, weights_only=True)["average"])


class averaged:
    """Within the block, `parameters` hold `average`."""

    def __init__(self, parameters: dict[str, torch.nn.Parameter], average: dict[str, torch.Tensor]) -> None:
        self.parameters, self.average = parameters, average

    def __enter__(self) -> None:
        self.trained = {name: value.detach().clone() for name, value in self.parameters.items()}
        put(self.parameters, self.average)

    def __exit__(self, *failure: object) -> None:
        put(self.parameters, self.trained)


def put(parameters: dict[str, torch.nn.Parameter], values: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])
