"""What a job costs, rank by rank, before anything is loaded.

A rank's pipeline runs in a process of its own: there it is alone in a process group that does not exist. What was found
is kept on disk, for the same job, the same configurations and the same program.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ditmesh.config import ParallelismConfig
from ditmesh.job.description import Flags, Job
from ditmesh.job.facts import INDEX, read_json
from ditmesh.planner.workers import Answer, answers
from ditmesh.planner.workload import Message, Operator, Phase, Workload

OF_OTHERS = ("torch", "diffusers", "transformers")


def dry_run(job: Job, rank: int = 0) -> Workload:
    """What one rank of a job does for one call of its pipeline.

    Args:
        job: of which configurations are read alone; None as its dtype is the example's.
        rank: of ``job.layout.world_size``.

    Raises:
        ValueError: the job cannot run so; or nobody can know what it does without its weights.
    """
    [found] = dry_runs([(job, rank)])
    if isinstance(found, ValueError):
        raise found
    return found


def dry_runs(asked: Sequence[tuple[Job, int]]) -> list[Workload | ValueError]:
    """The same for many jobs and ranks, on all cores; a ValueError stands for a job that cannot run."""
    found = dict(as_found(asked))
    for one in found.values():
        if isinstance(one, RuntimeError):
            raise one
    return [one for _, one in sorted(found.items()) if not isinstance(one, RuntimeError)]


def as_found(asked: Sequence[tuple[Job, int]], seconds: float | None = None) -> Iterator[tuple[int, Answer]]:
    """The same with their places, as soon as each is known; those that are known already first.

    Args:
        seconds: after which nothing more is found out.
    """
    places = [_place(job, rank) for job, rank in asked]
    missing = list[int]()
    for i, place in enumerate(places):
        known = _remembered(place)
        if known is None:
            missing.append(i)
        else:
            yield i, known
    for at, found in answers([asked[i] for i in missing], seconds):
        i = missing[at]
        if not isinstance(found, RuntimeError):
            _remember(places[i], found)
        yield i, found


def ranks_that_differ(layout: ParallelismConfig) -> list[int]:
    """Ranks of which the worst counts: the first of each stage, since the first of an axis has no less than the others.

    Rank 0 alone, where there are no stages.
    """
    inside = layout.ring_size * layout.ulysses_size * layout.tp_size
    return [stage * inside for stage in range(layout.pp_size)]


def _place(job: Job, rank: int) -> Path:
    """Where what is found of a rank is kept: its name is made of all that it depends on."""
    told = asdict(replace(job, seed=0, flags=Flags(), kernel=None))
    index = read_json(job.model, INDEX)
    names = [name for name, value in index.items() if isinstance(value, list) and name not in job.facts.transformers]
    configs = {name: _config(job.model, name) for name in names}
    text = json.dumps([told, index, configs, rank, _program()], sort_keys=True, default=_in_short)
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "ditmesh" / "plans" / f"{hashlib.sha256(text.encode()).hexdigest()}.json"


def _config(model: str, component: str) -> Any:
    file = "scheduler_config.json" if component == "scheduler" else "config.json"
    with suppress(ValueError):  # a tokenizer has none
        return read_json(model, f"{component}/{file}")
    return None


def _in_short(x: Any) -> str:
    """What is no JSON: of a picture its size alone counts."""
    return f"{type(x).__name__} {x.size}" if "mode" in dir(x) else repr(x)


@cache
def _program() -> str:
    """What runs: this package as it is, and the versions of others."""
    digest = hashlib.sha256(" ".join(version(name) for name in OF_OTHERS).encode())
    for file in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _remembered(place: Path) -> Workload | ValueError | None:
    """What was found before; None if nothing was, or it cannot be read."""
    try:
        told = json.loads(place.read_text())
        return ValueError(told["refused"]) if "refused" in told else _workload(told)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _remember(place: Path, found: Workload | ValueError) -> None:
    told = {"refused": str(found)} if isinstance(found, ValueError) else asdict(found)
    with suppress(OSError):  # a disk that is full or cannot be written costs time alone
        place.parent.mkdir(parents=True, exist_ok=True)
        made = place.with_suffix(f".{os.getpid()}")
        made.write_text(json.dumps(told))
        made.replace(place)


def _workload(told: dict[str, Any]) -> Workload:
    phases = []
    for phase in told.pop("phases"):
        operators = tuple(Operator(**one) for one in phase.pop("operators"))
        messages = tuple(Message(**{**one, "ranks": tuple(one["ranks"])}) for one in phase.pop("messages"))
        phases.append(Phase(**phase, operators=operators, messages=messages))
    return Workload(**{**told, "unknown": tuple(told["unknown"])}, phases=tuple(phases))
