"""Look at every layout of a job on a machine."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

from ditmesh.config import ParallelismConfig
from ditmesh.job.description import Job
from ditmesh.job.quantization import find_quantization
from ditmesh.planner.dry_run import as_found
from ditmesh.planner.hardware import Hardware
from ditmesh.planner.layouts import layouts, ranks_to_look_at, with_layout
from ditmesh.planner.plan import Estimate, Plan, cures, estimate, ranked
from ditmesh.planner.workers import Answer
from ditmesh.planner.workload import Workload

Runs = Callable[[list[tuple[Job, int]], float | None], Iterator[tuple[int, Answer]]]


@dataclass(frozen=True)
class Question:
    """What is asked of a plan.

    Attributes:
        devices: how many there are; ``exactly``: all of them have to work.
        text, vae, shard: whether text encoders, VAE and whole weights are shared out.
        throughput: many pictures are wanted, so that replicas count.
        hits: the part of the steps that a cache leaves out.
        seconds: after which nothing more is looked at.
    """

    device: Hardware
    devices: int
    exactly: bool = False
    text: bool = False
    vae: bool = False
    shard: bool = False
    throughput: bool = False
    hits: float = 0.0
    seconds: float | None = None


def search(job: Job, ask: Question, runs: Runs = as_found, tell: Callable[[int, int], None] | None = None) -> Plan:
    """Every layout of a job, predicted.

    Args:
        runs: how to find out what ranks do.
        tell: is told how many jobs were looked at, and of how many.
    """
    began = monotonic()
    ready, refused = list[Job](), list[Estimate]()
    for layout in layouts(ask.devices, ask.throughput, ask.exactly):
        try:
            ready.append(with_layout(job, layout, ask.text, ask.vae, ask.shard))
        except ValueError as error:
            refused.append(Estimate(replace(job, layout=layout), ask.device, refused=str(error)))
    found = look(ready, ask, runs, tell)
    estimates = [found[i] for i in sorted(found)]
    left = None if ask.seconds is None else ask.seconds - (monotonic() - began)
    if left is None or left > 0:
        estimates = cured(estimates, job, replace(ask, seconds=left), runs)
    unseen = tuple(one.layout for i, one in enumerate(ready) if i not in found)
    return Plan(
        job, ask.device, ask.devices, ask.throughput, tuple(ranked([*estimates, *refused], ask.throughput)), unseen
    )


def look(
    jobs: list[Job], ask: Question, runs: Runs, tell: Callable[[int, int], None] | None = None
) -> dict[int, Estimate]:
    """An estimate of each job by its place, as far as there was time; replicas do the same and are run once."""
    alike, once = dict[object, list[int]](), list[Job]()
    for place, job in enumerate(jobs):
        one = replace(job, layout=replace(job.layout, dp_size=1))
        key = str(one.layout), one.layout.shard_weights, one.layout.extra_parallel_modules, one.quantized
        if key not in alike:
            once.append(one)
        alike.setdefault(key, []).append(place)
    places, found = list(alike.values()), dict[int, Estimate]()
    asked = [(at, rank) for at, job in enumerate(once) for rank in ranks_to_look_at(job.layout)]
    answers = [list[Answer]() for _ in once]
    for number, answer in runs([(once[at], rank) for at, rank in asked], ask.seconds):
        at = asked[number][0]
        answers[at].append(answer)
        if len(answers[at]) == len(ranks_to_look_at(once[at].layout)):
            found |= {place: judged(jobs[place], answers[at], ask) for place in places[at]}
            if tell is not None:
                tell(len(found), len(jobs))
    return found


def judged(job: Job, answers: list[Answer], ask: Question) -> Estimate:
    """The estimate of a layout, or why there is none."""
    works = [answer for answer in answers if isinstance(answer, Workload)]
    if len(works) == len(answers):
        return estimate(job, works, ask.device, ask.hits)
    [why, *_] = [answer for answer in answers if not isinstance(answer, Workload)]
    return Estimate(job, ask.device, refused=" ".join(str(why).split()))


def cured(estimates: list[Estimate], job: Job, ask: Question, runs: Runs) -> list[Estimate]:
    """Those that do not fit, with the flags that make them fit, which is tried."""
    trials = dict[int, tuple[tuple[str, ...], Job]]()
    for place, one in enumerate(estimates):
        chosen = cures(one) if one.over else []
        changed = _changed(job, one.layout, ask, {k: v for cure in chosen for k, v in cure.sets.items()})
        if chosen and changed:
            trials[place] = tuple(cure.flag for cure in chosen), changed
    found = look([changed for _, changed in trials.values()], ask, runs)
    fit = {place: flags for at, (place, (flags, _)) in enumerate(trials.items()) if at in found and found[at].fits}
    return [replace(one, cures=fit.get(place, ())) for place, one in enumerate(estimates)]


def _changed(job: Job, layout: ParallelismConfig, ask: Question, sets: dict[str, Any]) -> Job | None:
    """The job with these changes, if it can be."""
    try:
        if kind := sets.get("quantize"):
            job = replace(job, quantized=find_quantization(kind, False, job.facts.components, "--quantize"))
        shares = (sets.get("text", ask.text), sets.get("vae", ask.vae), sets.get("shard", ask.shard))
        return with_layout(job, layout, *shares)
    except ValueError:
        return None
