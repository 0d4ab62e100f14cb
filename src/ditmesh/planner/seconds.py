"""How long a rank's work takes: a roofline for each operator, latency and bandwidth for each message."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ditmesh.planner.hardware import Hardware
from ditmesh.planner.messages import seconds_of
from ditmesh.planner.workload import Message, Operator, Phase, Workload

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

    def scaled(self, part: float) -> "Seconds":
        """The same where only this part of the steps is computed."""
        return replace(
            self,
            compute=part * self.compute,
            communication=part * self.communication,
            bubble=part * self.bubble,
            launch=part * self.launch,
        )

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
    moving = one.bytes / (device.bandwidth * device.efficiency["memory"])
    if one.kind not in ARITHMETIC or not one.flops:
        return moving + device.startup
    computing = one.flops / (rate_of(one.dtype, device) * device.efficiency[one.kind])
    return max(moving, computing) + device.startup


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


def price(work: Workload, device: Hardware, world: int) -> Seconds:
    """The seconds of one call on the rank whose work this is."""
    whole, steps = {"encode": 0.0, "decode": 0.0}, defaultdict[str, float](float)
    for phase in work.phases:
        for what, seconds in spent(phase, device, world).items():
            if phase.name in whole:
                whole[phase.name] += phase.repeats * seconds
            else:
                steps[what] += phase.repeats * seconds
    steps["bubble"] = sum(steps.values()) * work.bubble / (1 - work.bubble)
    longest = max(steps, key=lambda what: steps[what])
    return Seconds(
        encode=whole["encode"],
        decode=whole["decode"],
        compute=sum(steps[what] for what in (*ARITHMETIC, "memory")),
        communication=sum(seconds for what, seconds in steps.items() if what.startswith("message ")),
        bubble=steps["bubble"],
        launch=steps["launch"],
        limit=LIMITS.get(longest, longest.replace("message ", "messages of ")),
    )


def slowest(works: Iterable[Workload], device: Hardware, world: int) -> Seconds:
    """Part by part the slowest rank's seconds: all of them wait for each other in each."""
    priced = [price(work, device, world) for work in works]
    worst = max(priced, key=lambda one: one.denoise)
    return replace(worst, encode=max(one.encode for one in priced), decode=max(one.decode for one in priced))
