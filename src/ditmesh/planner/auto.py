"""Choose a layout: for the machine this runs on, or for one that is named."""

import fcntl
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ditmesh.config import ParallelismConfig
from ditmesh.job.description import Job
from ditmesh.job.example import Example
from ditmesh.job.facts import read_pipeline
from ditmesh.planner.checkpoints import configs_of
from ditmesh.planner.dry_run import as_found
from ditmesh.planner.hardware import THIS, Hardware, hardware, machine
from ditmesh.planner.peaks import gib
from ditmesh.planner.plan import Estimate, Plan
from ditmesh.planner.search import Question, look, search

logger = logging.getLogger("ditmesh")


def layout_for(model: str, machine_name: str, call: Mapping[str, Any]) -> ParallelismConfig:
    """The layout that is predicted to draw one picture soonest, of those that fit and change nothing.

    Raises:
        ValueError: the machine or the model is unknown, or no layout fits.
    """
    device, devices = machine(machine_name)
    name, model = Path(model).name, configs_of(model)
    facts = read_pipeline(model, flag="model")
    example = Example(name, facts.class_name, model, "a picture", None, height=None, width=None)
    job = Job(example, model, facts, ParallelismConfig(), {"prompt": example.prompt, **call})
    return best_of(search(with_dtype(job, device), Question(device, devices)))


def this_machine() -> Hardware:
    """What this process would run on.

    Raises:
        ValueError: nothing is known of it.
    """
    import torch

    if not torch.cuda.is_available():
        return hardware(THIS)
    name = torch.cuda.get_device_name()
    memory = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    try:
        link = "pcie4" if "A100-PCI" in name else None
        return replace(hardware(plain_name(name, memory), link=link), memory=memory)
    except ValueError as error:
        raise ValueError(f"this machine has {name}: {error}") from error


def plain_name(name: str, memory: int) -> str:
    """What the table calls a device that a driver calls ``NVIDIA A100-SXM4-80GB``."""
    words = [word for word in name.replace("-", " ").split() if word not in ("NVIDIA", "GeForce", "AMD", "Instinct")]
    kept = [word for word in words if word not in ("Generation", "Blackwell", "Server", "Workstation", "Edition")]
    kept = [word for word in kept if not word.startswith(("SXM", "HBM")) and not word.endswith("GB") and word != "HGX"]
    if kept[:1] == ["A100"]:
        return "A100-40" if gib(memory) < 60 else "A100-80"
    return "-".join(kept)


def with_dtype(job: Job, device: Hardware) -> Job:
    """The job with the dtype that its weights would have there."""
    return replace(job, dtype=job.dtype or ("float32" if device.is_cpu else job.example.dtype))


def choose(job: Job, ask: Question) -> Plan:
    """A plan that has a best; ranks of one machine look one after the other.

    They all find the same: the answer is made of the job and the table alone, and the first one's dry runs are kept.

    Raises:
        ValueError: no layout fits.
    """
    with _one_at_a_time():
        plan = search(with_dtype(job, ask.device), ask)
    best_of(plan)
    return plan


def best_of(plan: Plan) -> ParallelismConfig:
    """The layout of a plan's best.

    Raises:
        ValueError: no layout fits.
    """
    if plan.best is None:
        raise ValueError(f"auto: {plan.reason}; `ditmesh plan` shows all of them.")
    logger.info("layout %s: %s", plan.best.layout, plan.reason)
    return plan.best.layout


def too_large(job: Job, device: Hardware) -> str | None:
    """What a run lacks that cannot fit, in a sentence; None if it fits, or if nothing is known of it."""
    with _one_at_a_time():
        found = look([with_dtype(job, device)], Question(device, job.layout.world_size), as_found)
    [one] = found.values() if found else [Estimate(job, device)]
    memory = one.memory
    if memory is None or not one.over:
        return None
    parts = {
        "weights": memory.weights + memory.vae,
        "text encoders": memory.encoders,
        "buffers": memory.buffers,
        "activations": max(memory.activations, memory.decode),
        "context": memory.context,
    }
    told = ", ".join(f"{name} {gib(size):.1f}" for name, size in parts.items() if size)
    return (
        f"layout {job.layout} is predicted to need {gib(memory.total):.1f} GiB on a device, and {device.name} has "
        f"{gib(device.memory):.1f} ({told}); `ditmesh plan` shows what fits, --no-check leaves this out"
    )


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Hold a lock of this machine and user."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ditmesh"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "planner.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
