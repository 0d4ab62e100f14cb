"""Turn a layout into the groups of ranks along its axes: dp, cfg, pp, ring, ulysses and tp, outer to inner."""

import gc
import os
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache

import torch
import torch.distributed as dist

from ditmesh.config import ParallelismConfig, rank_groups, sharing
from ditmesh.upstream.process_groups import break_group, end_group, make_group

TIMEOUT = "DITMESH_TIMEOUT"
SECONDS = 600  # if the variable does not say
_made: Counter[str] = Counter()  # groups by name: the job's store outlives them, and remembers where they met


def patience() -> timedelta:
    """How long a rank waits for another one.

    Raises:
        ValueError: the variable is no number of seconds.
    """
    given = os.environ.get(TIMEOUT, str(SECONDS))
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{TIMEOUT}={given} is no number of seconds above 0; set it to 600, say, or unset it.")
    return timedelta(seconds=seconds)


class Axis:
    """The ranks of one group, as every strategy holds them.

    Its process group is ended when a request fails, and made again before the next one: whoever holds the axis goes on
    with the new group. The members make it, and nobody else.

    Attributes:
        ranks: the numbers of its members in the world, in order.
        device_type: where its tensors are.
    """

    def __init__(self, ranks: tuple[int, ...], purpose: str, device_type: str):
        self.ranks, self.device_type = ranks, device_type
        self._name = f"ditmesh/{purpose}/{'-'.join(map(str, ranks))}"
        self._place = ranks.index(dist.get_rank())
        self._group: dist.ProcessGroup | None = None

    def size(self) -> int:
        return len(self.ranks)

    def get_local_rank(self) -> int:
        return self._place

    def get_group(self) -> dist.ProcessGroup:
        if self._group is None:
            _made[self._name] += 1
            self._group = make_group(self.ranks, f"{self._name}/{self.made}", patience())
        return self._group

    @property
    def made(self) -> int:
        """How often its group was made, the same on all of its ranks."""
        return _made[self._name]

    @property
    def is_ended(self) -> bool:
        return self._group is None

    def interrupt(self) -> None:
        """Give an error to whoever waits in the group; another thread may do this for the one that waits."""
        if self._group is not None:
            break_group(self._group)

    def end(self) -> None:
        """End the group, and with it whatever is under way in it, on all of its ranks."""
        if self._group is not None:
            group, self._group = self._group, None
            end_group(group)


@dataclass(frozen=True)
class Mesh:
    """All ranks of a job along the axes of a layout; ``mesh["tp"]`` are those of this rank's group of that axis.

    Groups of the same ranks are one: a communicator costs threads on a CPU and memory on a GPU.

    Attributes:
        axes: all that were asked for, in the order in which every rank makes their groups.
    """

    layout: ParallelismConfig
    device_type: str
    axes: dict[Axis, None] = field(default_factory=dict[Axis, None], compare=False)

    def __getitem__(self, axis: str) -> Axis:
        return self.along(axis)

    def along(self, *axes: str, purpose: str = "all") -> Axis:
        """The ranks that differ from this one along these axes alone, as one axis."""
        [row] = [row for row in rank_groups(self.layout, *axes) if dist.get_rank() in row]
        return self.of(row, purpose)

    def of(self, ranks: list[int], purpose: str) -> Axis:
        """These ranks, of which this one is one; groups of another purpose are other groups."""
        axis = _axis(tuple(ranks), purpose, self.device_type, dist.group.WORLD)
        self.axes[axis] = None
        axis.get_group()
        return axis


@cache
def _axis(ranks: tuple[int, ...], purpose: str, device_type: str, world: dist.ProcessGroup) -> Axis:
    return Axis(ranks, purpose, device_type)


def build_mesh(parallelism: ParallelismConfig, device_type: str) -> Mesh:
    """The mesh of a layout over all ranks, which must be as many as the layout needs."""
    assert dist.get_world_size() == parallelism.world_size, "check_layout compares them before"
    if device_type == "cuda" and not torch.cuda.is_initialized():
        local = int(os.environ.get("LOCAL_RANK", dist.get_rank()))
        torch.cuda.set_device(local % torch.cuda.device_count())
    return Mesh(parallelism, device_type)


def device_type() -> str:
    """Where the tensors of this job's ranks are."""
    if dist.is_initialized():
        return "cuda" if "nccl" in str(dist.get_backend_config()) else "cpu"
    return "cuda" if torch.cuda.is_available() else "cpu"


def world_size() -> int:
    """The number of ranks of this job, which may have no process group yet."""
    return dist.get_world_size() if dist.is_initialized() else int(os.environ.get("WORLD_SIZE", "1"))


def leads() -> bool:
    """Whether this is the first rank of its job, or its only one."""
    return dist.get_rank() == 0 if dist.is_initialized() else os.environ.get("RANK", "0") == "0"


def start_mesh(parallelism: ParallelismConfig) -> Mesh:
    """The mesh of a layout; starts a process group if there is none."""
    kind = device_type()
    if not dist.is_initialized():
        if kind == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo", timeout=patience())
    return build_mesh(parallelism, kind)


def replica_mesh(mesh: Mesh) -> Axis:
    """All ranks that make one picture together, as one axis."""
    return mesh.along(*sharing("picture"))


def stops_mesh(mesh: Mesh) -> Axis:
    """The ranks of a replica, for what they agree on beside all they compute."""
    return mesh.along(*sharing("picture"), purpose="stops")


def forward_mesh(mesh: Mesh) -> Axis:
    """The ranks that share one forward of the transformer, as one axis."""
    return mesh.along(*sharing("forward"))


def sequence_mesh(mesh: Mesh) -> Axis:
    """The ranks that share a sequence, ring outside and Ulysses inside, as one axis."""
    return mesh.along(*sharing("sequence"))


def lanes(mesh: Mesh) -> tuple[Axis, Axis]:
    """Two groups of the ranks along ``pp``, for what a stage takes and what it gives: neither waits for the other."""
    ranks = list(mesh["pp"].ranks)
    return mesh.of(ranks, "even lane"), mesh.of(ranks, "odd lane")


def shortcut(mesh: Mesh, source: int, target: int) -> Axis | None:
    """Two stages, for what one gives the other past those between them; None on the others."""
    stages = mesh["pp"]
    ends = [stages.ranks[source], stages.ranks[target]]
    return mesh.of(ends, "shortcut") if dist.get_rank() in ends else None


def leave_ranks() -> None:
    """End the process group, if there is one; pipelines that were spread over its ranks must not be in use any more.

    A group's threads end when nothing refers to it. One that is alive when the interpreter ends may have to free a
    tensor then, and a thread that asks for the interpreter's lock so late ends the process with SIGABRT.
    """
    if not dist.is_initialized():
        return
    dist.destroy_process_group()
    _axis.cache_clear()
    gc.collect()
