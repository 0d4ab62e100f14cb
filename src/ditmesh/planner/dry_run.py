"""What a job costs, rank by rank, before anything is loaded.

A rank's pipeline runs in a process of its own: there it is alone in a process group that does not exist. What was found
is kept on disk, for the same job, the same configurations and the same program.
"""

import hashlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ditmesh.config import ParallelismConfig
from ditmesh.job.description import Flags, Job
from ditmesh.job.facts import INDEX, read_json
from ditmesh.planner.workload import Message, Operator, Phase, Workload

OF_RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
ALONE = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
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
    places = [_place(job, rank) for job, rank in asked]
    found = [_remembered(place) for place in places]
    missing = [i for i, one in enumerate(found) if one is None]
    shares = [missing[i :: os.cpu_count() or 1] for i in range(min(os.cpu_count() or 1, len(missing)))]
    with TemporaryDirectory() as folder:
        started = [_start(Path(folder) / str(i), [asked[x] for x in share]) for i, share in enumerate(shares)]
        try:
            for share, (process, files) in zip(shares, started, strict=True):
                for i, one in zip(share, _answers(process, files), strict=True):
                    found[i] = one
                    _remember(places[i], one)
        finally:
            for process, _ in started:
                process.kill()
                process.wait()
    return [one for one in found if one is not None]


def ranks_that_differ(layout: ParallelismConfig) -> list[int]:
    """Ranks of which the worst counts: the first of each stage, since the first of an axis has no less than the others.

    Rank 0 alone, where there are no stages.
    """
    inside = layout.ring_size * layout.ulysses_size * layout.tp_size
    return [stage * inside for stage in range(layout.pp_size)]


def _start(files: Path, asked: list[tuple[Job, int]]) -> tuple[subprocess.Popen[str], Path]:
    files.with_suffix(".asked").write_bytes(pickle.dumps(asked))
    environment = {name: value for name, value in os.environ.items() if name not in OF_RANKS} | ALONE
    command = [sys.executable, "-m", "ditmesh.planner.rank", str(files)]
    process = subprocess.Popen(
        command, env=environment, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    return process, files


def _answers(process: subprocess.Popen[str], files: Path) -> list[Workload | ValueError]:
    _, told = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the dry run failed, which is an error of ditmesh; please report it:\n{told[-2000:]}")
    return pickle.loads(files.with_suffix(".found").read_bytes())


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
