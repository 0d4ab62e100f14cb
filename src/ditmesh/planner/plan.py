"""What each layout of a job would need and take on a machine, and which one is best."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, prod

from ditmesh.config import ParallelismConfig, holding
from ditmesh.job.description import Job
from ditmesh.planner.hardware import Hardware
from ditmesh.planner.layouts import text_encoders
from ditmesh.planner.peaks import Memory, gib, heaviest
from ditmesh.planner.seconds import Seconds, slowest
from ditmesh.planner.workload import Workload


@dataclass(frozen=True)
class Estimate:
    """One layout, predicted.

    Attributes:
        job: on this layout.
        memory, seconds: of the rank that needs most; None where the layout was refused or not looked at.
        refused: why it cannot run.
        cures: flags that make it fit, if some do.
        unknown: what was not counted, a line each.
    """

    job: Job
    device: Hardware
    memory: Memory | None = None
    seconds: Seconds | None = None
    refused: str = ""
    cures: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def layout(self) -> ParallelismConfig:
        return self.job.layout

    @property
    def over(self) -> int:
        """The bytes that it needs beyond what a device has."""
        return max(0, self.memory.total - self.device.memory) if self.memory else 0

    @property
    def fits(self) -> bool:
        return self.memory is not None and not self.over

    @property
    def pictures_per_hour(self) -> float:
        """Of all replicas, each of which draws a batch at a time."""
        batch = self.job.call.get("num_images_per_prompt", 1)
        return 3600 * batch * self.layout.dp_size / self.seconds.total if self.seconds else 0.0


@dataclass(frozen=True)
class Plan:
    """All layouts of a job on so many devices, best first.

    Attributes:
        throughput: many pictures are wanted, not one soon.
        unseen: layouts that there was no time to look at.
    """

    job: Job
    device: Hardware
    devices: int
    throughput: bool
    estimates: tuple[Estimate, ...]
    unseen: tuple[ParallelismConfig, ...] = ()

    @property
    def best(self) -> Estimate | None:
        """The best that fits and gives the very picture of one device; None if none does."""
        exact = [one for one in self.estimates if one.fits and not one.layout.is_lossy]
        return exact[0] if exact else None

    @property
    def reason(self) -> str:
        """Why it is the best, in a sentence."""
        if self.best is None or self.best.memory is None or self.best.seconds is None:
            nearest = min((one for one in self.estimates if one.memory), key=lambda one: one.over, default=None)
            lacks = f"; {nearest.layout} comes nearest and lacks {gib(nearest.over):.1f} GiB" if nearest else ""
            lacks += f"; with {' '.join(nearest.cures)} it fits" if nearest and nearest.cures else ""
            return f"no exact layout fits {self.devices} x {self.device.name}{lacks}"
        has, needs = gib(self.device.memory), gib(self.best.memory.total)
        speed = f"{self.best.seconds.total:.1f} s"
        if self.throughput:
            speed = f"{self.best.pictures_per_hour:.0f} pictures an hour"
        others = [one for one in self.estimates if one.fits and not one.layout.is_lossy][1:2]
        than = f", next is {others[0].layout}" if others else ", nothing else fits"
        return f"{self.best.layout} fits ({needs:.1f} of {has:.1f} GiB) and is predicted to be fastest: {speed}{than}"


def estimate(job: Job, works: Sequence[Workload], device: Hardware, hits: float = 0.0) -> Estimate:
    """Price what the ranks of a layout do.

    Args:
        works: of all ranks that differ.
        hits: the part of the steps that a cache leaves out.
    """
    seconds = slowest(works, device, job.layout.world_size, hits)
    return Estimate(
        job,
        device,
        heaviest(works, device),
        seconds,
        unknown=tuple(dict.fromkeys(line for work in works for line in work.unknown)),
    )


def ranked(estimates: Iterable[Estimate], throughput: bool) -> list[Estimate]:
    """Best first: those that fit, by time; then those that do not, by what they lack; then those that were refused."""

    def key(one: Estimate) -> tuple[bool, bool, float, int]:
        time = inf if one.seconds is None else one.seconds.total
        if throughput and one.seconds:
            time = -one.pictures_per_hour
        return not one.memory, not one.fits, one.over or time, one.layout.world_size

    return sorted(estimates, key=key)


@dataclass(frozen=True)
class Cure:
    """A flag that takes something off the peak: what it sets, and about how many bytes it saves."""

    flag: str
    sets: Mapping[str, bool | str]
    saves: float


def cures(one: Estimate) -> list[Cure]:
    """The fewest that may make a layout fit, least change first; none if all together do not."""
    assert one.memory is not None
    memory, layout = one.memory, one.layout
    ranks = layout.world_size // layout.dp_size
    copies = prod(layout.sizes[axis] for axis in holding("whole"))
    shared, share = layout.extra_parallel_modules, 1 - 1 / ranks
    found = list[Cure]()
    if not set(text_encoders(one.job)) <= set(shared):
        found.append(Cure("--parallel-text", {"text": True}, memory.encoders * share))
    if "vae" not in shared:
        least = max(memory.activations, memory.decode / ranks)
        found.append(Cure("--parallel-vae", {"vae": True}, max(0.0, memory.decode - least)))
    if not layout.shard_weights:
        found.append(Cure("--shard-weights", {"shard": True}, memory.weights * (1 - 1 / copies)))
    if one.job.quantized is None:
        found.append(Cure("--quantize int8", {"quantize": "int8"}, memory.weights * 0.4))
    chosen, left = list[Cure](), float(one.over)
    for cure in found:
        if cure.saves > 0 and left > 0:
            chosen.append(cure)
            left -= cure.saves
    # What a later one saves may make an earlier, small one needless.
    for cure in list(chosen):
        if left + cure.saves <= 0:
            chosen.remove(cure)
            left += cure.saves
    return chosen if left <= 0 else []
