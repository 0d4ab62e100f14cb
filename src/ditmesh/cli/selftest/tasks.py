"""What a rank of a self-test does: tell of its machine, check messages, measure rates, compare a pipeline."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
import torch.distributed as dist

from ditmesh import ParallelismConfig
from ditmesh.api import leave_ranks
from ditmesh.cli.selftest.cases import PIPELINES, Case
from ditmesh.cli.selftest.compare import Alone, compare
from ditmesh.cli.selftest.machine import facts
from ditmesh.cli.selftest.messages import faults
from ditmesh.cli.selftest.pipelines import build, call_of
from ditmesh.job.devices import device_of
from ditmesh.job.draw import call_pipeline
from ditmesh.planner.measure import measure
from ditmesh.runtime.mesh import start_mesh
from ditmesh.runtime.world import World


class Rank:
    """This rank among the others, all of which do the same tasks."""

    def __init__(self, world: World):
        self.world, self.device = world, device_of(world)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.set_grad_enabled(False)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        if world.size > 1:
            start_mesh(ParallelismConfig(dp_size=world.size))
        self._alone = Alone(world, self.device)

    def agree_on(self, number: float) -> float:
        """The first rank's number, when all ranks are there."""
        told = torch.tensor([number], dtype=torch.float64)
        if self.world.size > 1:
            dist.broadcast(told, 0)
            dist.all_reduce(told, dist.ReduceOp.MAX)
        return told.item()

    def title(self, task: Mapping[str, Any]) -> str:
        return str(Case(**task["case"])) if "case" in task else task["task"]

    def do(self, task: Mapping[str, Any]) -> dict[str, Any]:
        """What came of a task, on the first rank for all of them."""
        if "case" in task:
            return compare(Case(**task["case"]), self._alone)
        doing: dict[str, Callable[[], Any]] = {
            "machine": lambda: facts(self.device) if self.world.rank == 0 else {},
            "messages": lambda: faults(self.world, self.device),
            "rates": self._rates,
        }
        return {"found": doing[task["task"]]()}

    def _rates(self) -> dict[str, Any]:
        """Those of the machine, with the forward of a transformer that hardly computes."""
        name = next(iter(PIPELINES))
        pipe = build(name, 1, torch.float32).to(self.device)
        pipe.set_progress_bar_config(disable=True)
        given: list[Any] = []
        hook = pipe.transformer.register_forward_pre_hook(lambda *x: given.append(x[1:]), with_kwargs=True)
        call_pipeline(pipe, call_of(name), [0])
        hook.remove()
        args, kwargs = given[0]

        def program() -> None:
            pipe.transformer(*args, **kwargs)

        return asdict(measure(self.device, program))

    def leave(self) -> None:
        leave_ranks()
