"""How long a rank's work takes: a roofline for each operator, latency and bandwidth for each message."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ditmesh.planner.hardware import Hardware
from ditmesh.planner.messages import seconds_of
from ditmesh.planner.workload import Message, Operator, Phase, Workload

STEP, CACHED = "step", "cached step"
ARITHMETIC = ("matmul", "attention", "convolution")
LIMITS = {  # what takes longest, and how a table says so
    "matmul": "matrices",
    "attention": "attention",
    "convolution": "convolutions",
    "memory": "memory bandwidth",
    "launch": "launching kernels",
    "bubble": "idle stages",
}


@dataclass(frozen=True)
class Seconds:
    """The seconds of one call on one rank.

    Attributes:
        compute, communication, bubble, launch: of the denoising alone: what computes, messages that nothing hides,
            stages that wait, and a device that waits for its host.
        limit: what takes most of it.
    """

    encode: float
    decode: float
    compute: float
    communication: float
    bubble: float
    launch: float
    limit: str

    @property
    def denoise(self) -> float:
        return self.compute + self.communication + self.bubble + self.launch

    @property
    def total(self) -> float:
        return self.encode + self.denoise + self.decode


def rate_of(dtype: str, device: Hardware) -> float:
    """FLOP/s at the peak; of a dtype that the device has no units for, what it has to be turned into first."""
    for known in (dtype, dtype.split("_")[0], "bfloat16" if dtype.startswith(("float8", "int8")) else "float32"):
        if known in device.rates:
            return device.rates[known]
    return device.rates["float32"]


def operator_seconds(one: Operator, device: Hardware) -> float:
    """The seconds of one of these: as long as its arithmetic or its memory traffic takes, whichever is longer."""
    moving = moving_seconds(one.bytes, device)
    if one.kind not in ARITHMETIC or not one.flops:
        return moving + device.startup
    computing = one.flops / (rate_of(one.dtype, device) * device.efficiency[one.kind])
    return max(moving, computing) + device.startup


def moving_seconds(size: int, device: Hardware) -> float:
    """The seconds of reading and writing so many bytes, where what the operator before wrote may still be in a cache.

    That is as much as half of the cache, since others use it too.
    """
    cached = min(size, device.cache / 2) if device.cache_bandwidth > device.bandwidth else 0.0
    slow = (size - cached) / (device.bandwidth * device.efficiency["memory"])
    return slow + (cached / device.cache_bandwidth if cached else 0.0)


def spent(phase: Phase, device: Hardware, world: int) -> dict[str, float]:
    """The seconds of one run of a phase, by what they are spent on; messages by their axis, as "message tp"."""
    parts, messages, hidden = (defaultdict[str, float](float) for _ in range(3))
    for one in phase.operators:
        parts[one.kind] += one.count * operator_seconds(one, device)
    computing, attending = sum(parts.values()), parts["attention"]
    for one in phase.messages:
        (hidden if one.hidden else messages)[one.axis] += one.count * seconds_of(one, device, world)
    for axis, seconds in hidden.items():
        over = attending * _overlapped(phase.messages, axis) if axis == "ring" else computing
        messages[axis] += max(0.0, seconds - over)
    for axis, seconds in messages.items():
        parts[f"message {axis}"] = seconds
    parts["launch"] = max(0.0, phase.launches * device.launch - sum(parts.values()))
    return parts


def _overlapped(messages: Iterable[Message], axis: str) -> float:
    """The part of a ring's attention that runs beside a message: nothing is passed on during the last of its parts."""
    ranks = max(len(one.ranks) for one in messages if one.axis == axis)
    return (ranks - 1) / ranks


def price(work: Workload, device: Hardware, world: int, hits: float = 0.0) -> Seconds:
    """The seconds of one call on the rank whose work this is.

    Args:
        hits: the part of the steps in which a cache leaves blocks out.
    """
    whole, steps = {"encode": 0.0, "decode": 0.0}, defaultdict[str, float](float)
    for phase in work.phases:
        parts, repeats = spent(phase, device, world), _repeats(phase, work.phases, hits)
        parts["bubble"] = sum(parts.values()) * phase.bubble / (1 - phase.bubble)
        for what, seconds in parts.items():
            if phase.name in whole:
                whole[phase.name] += repeats * seconds
            else:
                steps[what] += repeats * seconds
    longest = max(steps, key=lambda what: steps[what], default="launch")
    return Seconds(
        encode=whole["encode"],
        decode=whole["decode"],
        compute=sum(steps[what] for what in (*ARITHMETIC, "memory")),
        communication=sum(seconds for what, seconds in steps.items() if what.startswith("message ")),
        bubble=steps["bubble"],
        launch=steps["launch"],
        limit=LIMITS.get(longest, longest.replace("message ", "messages of ")),
    )


def _repeats(phase: Phase, phases: Iterable[Phase], hits: float) -> float:
    """How often a phase runs: of a transformer's steps, a part is cached ones, where there are such."""
    mine = [one for one in phases if one.component == phase.component and one.name in (STEP, CACHED)]
    if phase.name not in (STEP, CACHED) or not any(one.name == CACHED for one in mine):
        return phase.repeats
    kinds = sum(one.name == CACHED for one in mine)
    return hits * sum(one.repeats for one in mine) / kinds if phase.name == CACHED else (1 - hits) * phase.repeats


def slowest(works: Iterable[Workload], device: Hardware, world: int, hits: float = 0.0) -> Seconds:
    """Part by part the slowest rank's seconds: all of them wait for each other in each."""
    priced = [price(work, device, world, hits) for work in works]
    worst = max(priced, key=lambda one: one.denoise)
    return replace(worst, encode=max(one.encode for one in priced), decode=max(one.decode for one in priced))
