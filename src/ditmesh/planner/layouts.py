"""Every layout of so many devices, and why a model cannot run one: pure, before anything is counted."""

from collections.abc import Iterator
from dataclasses import replace

from ditmesh.config import AXES, ParallelismConfig, holding
from ditmesh.job.checks import check_facts
from ditmesh.job.description import Job
from ditmesh.planner.dry_run import ranks_that_differ

TEXTS = ("text_encoder", "vision_language_encoder")


def layouts(devices: int, throughput: bool = False, exactly: bool = False) -> Iterator[ParallelismConfig]:
    """Every layout of at most so many devices whose number divides theirs; those of all devices first, stages last.

    Args:
        throughput: whether replicas count; without, one picture is drawn at a time.
        exactly: leave no device idle.
    """
    worlds = [devices] if exactly else [devices // n for n in range(1, devices + 1) if devices % n == 0]
    axes = [axis for axis in AXES if throughput or AXES[axis].share]
    found = [
        ParallelismConfig.parse(".".join(f"{axis}{size}" for axis, size in sizes.items()))
        for world in worlds
        for sizes in _factors(world, axes)
    ]
    return iter(sorted(found, key=lambda layout: layout.pp_size > 1))


def ranks_to_look_at(layout: ParallelismConfig) -> list[int]:
    """Of a layout's stages the first and the last two: those between have as many blocks, and nothing beside them."""
    stages = ranks_that_differ(layout)
    return [stages[i] for i in sorted({0, max(len(stages) - 2, 0), len(stages) - 1})]


def _factors(number: int, axes: list[str]) -> Iterator[dict[str, int]]:
    """Every way to write a number as a product of a size for each axis."""
    if not axes:
        if number == 1:
            yield {}
        return
    *outer, axis = axes
    for size in range(min(number, AXES[axis].most or number), 0, -1):
        if number % size == 0:
            yield from ({**rest, axis: size} for rest in _factors(number // size, outer))


def text_encoders(job: Job) -> list[str]:
    """The components that ``--parallel-text`` shares out."""
    return [name for name in job.facts.components if name.startswith(TEXTS)]


def with_layout(job: Job, layout: ParallelismConfig, text: bool, vae: bool, shard: bool) -> Job:
    """The job on this layout, with what is shared out beside the transformer where there are ranks to share it.

    Raises:
        ValueError: a transformer cannot run it.
    """
    shared = (text_encoders(job) if text else []) + (["vae"] if vae and "vae" in job.facts.components else [])
    world = layout.world_size // layout.dp_size
    whole = any(layout.sizes[axis] > 1 for axis in holding("whole", "shards"))
    return check_facts(
        replace(
            job,
            layout=replace(
                layout,
                shard_weights=shard and whole,
                extra_parallel_modules=tuple(shared) if world > 1 else (),
            ),
        )
    )
