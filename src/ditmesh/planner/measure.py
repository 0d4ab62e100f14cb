"""Measure what the ranks of this job can do, all at once as in a layout: arithmetic, memory, and their links.

What is noted is what was reached, so nothing is lost beside it. On a CPU the sizes are those of small models, whose
matrices reach less than large ones.
"""

import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from ditmesh.planner.counting import Tally
from ditmesh.planner.hardware import THIS, Hardware, Link
from ditmesh.planner.links import Measured, links, measure_links
from ditmesh.runtime.mesh import world_size
from ditmesh.upstream.hollow import Watch
from ditmesh.upstream.kernels import native

ROUNDS, SECONDS = 6, 0.02  # rounds, of which the best counts, and seconds of each
MIB = 2**20


@dataclass(frozen=True)
class Sizes:
    """Of what is measured.

    Attributes:
        matmul, peak: m, n, k of a model's matrices, and of those that reach the most.
        attention: [B, H, S, D].
        picture: [B, C, H, W], what a convolution gets.
        copied: bytes.
    """

    dtypes: tuple[str, ...]
    matmul: tuple[int, int, int]
    peak: tuple[int, int, int]
    attention: tuple[int, int, int, int]
    picture: tuple[int, int, int, int]
    copied: int


SIZES = {
    "cpu": Sizes(("float32", "bfloat16"), (96, 512, 128), (512, 512, 512), (1, 8, 96, 16), (1, 32, 64, 64), MIB // 4),
    "cuda": Sizes(
        ("float32", "bfloat16", "float16"),
        (4096, 3072, 3072),
        (8192, 8192, 8192),
        (1, 24, 4608, 128),
        (1, 256, 256, 256),
        256 * MIB,
    ),
}
MODEL_DTYPE = {"cpu": "float32", "cuda": "bfloat16"}
ACROSS = 64 * MIB  # between host and device


class Clock:
    """Seconds of what all ranks do at once: of the slowest rank, in the best of several rounds."""

    def __init__(self, device: torch.device):
        self.device = device

    def seconds(self, function: Callable[[], object]) -> float:
        function()
        times = max(1, min(200, int(SECONDS / self._slowest(function, 2))))  # the same on every rank
        return min(self._slowest(function, times) for _ in range(ROUNDS))

    def _slowest(self, function: Callable[[], object], times: int) -> float:
        self._largest(0.0)  # all begin together
        began = time.perf_counter()
        for _ in range(times):
            function()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return self._largest((time.perf_counter() - began) / times)

    def _largest(self, number: float) -> float:
        told = torch.tensor([number], dtype=torch.float64)
        if dist.is_initialized():
            dist.all_reduce(told, dist.ReduceOp.MAX)
        return told.item()


@dataclass(frozen=True)
class Rates:
    """What this machine reached.

    Attributes:
        peaks, matmul: FLOP/s by dtype, of large matrices and of a model's.
        attention, convolution: FLOP/s in a model's dtype.
        copy: bytes/s, read and written; ``to_device`` and ``to_host`` from and to pinned memory, 0 without a GPU.
        launch: seconds of the host for an operator in a model's own code.
        memory, context: bytes of a device, and of those what torch and its communication take.
    """

    device: str
    peaks: dict[str, float]
    matmul: dict[str, float]
    attention: float
    convolution: float
    copy: float
    to_device: float
    to_host: float
    launch: float
    memory: int
    context: int
    links: tuple[Measured, ...]


def measure(device: torch.device, program: Callable[[], object]) -> Rates:
    """All rates; all ranks call this.

    Args:
        program: a small model's forward, in which hardly anything is computed: its time is that of starting kernels.
    """
    tally = Tally()
    with Watch(tally.operator):
        program()
    clock, sizes = Clock(device), SIZES[device.type]
    own = MODEL_DTYPE[device.type]
    joined = measure_links(clock.seconds, world_size(), device)
    idle = clock.seconds(lambda: torch.empty(1, device=device).add_(1)) if device.type == "cpu" else 0.0

    def rate(flops: float, function: Callable[[], object]) -> float:
        return flops / max(clock.seconds(function) - idle, 1e-9)

    def matmul(shape: tuple[int, int, int], dtype: str) -> float:
        m, n, k = shape
        x, weight = _random((m, k), dtype, device), _random((n, k), dtype, device)
        return rate(2 * m * n * k, lambda: F.linear(x, weight))

    matrices = {dtype: matmul(sizes.matmul, dtype) for dtype in sizes.dtypes}
    q = _random(sizes.attention, own, device)
    picture = _random(sizes.picture, own, device)
    batch, channels, height, width = sizes.picture
    kernel = _random((channels, channels, 3, 3), own, device)
    source = torch.zeros(sizes.copied // 4, device=device)
    target = torch.empty_like(source)
    to_device, to_host = _across(clock)
    return Rates(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        peaks={dtype: max(matmul(sizes.peak, dtype), matrices[dtype]) for dtype in sizes.dtypes},
        matmul=matrices,
        attention=rate(4 * prod(sizes.attention) * sizes.attention[2], lambda: native(q, q, q, None, None)),
        convolution=rate(18 * batch * channels**2 * height * width, lambda: F.conv2d(picture, kernel, padding=1)),
        copy=2 * sizes.copied / clock.seconds(lambda: target.copy_(source)),
        to_device=to_device,
        to_host=to_host,
        launch=clock.seconds(program) / tally.launches,
        memory=_memory(device),
        context=_context(device),
        links=tuple(joined),
    )


def entry(rates: Rates, source: str) -> Hardware:
    """The machine as the planner takes it."""
    on_host = rates.device == "CPU"  # which computes itself what it starts
    dtype = MODEL_DTYPE["cpu" if on_host else "cuda"]
    peak = rates.peaks[dtype]
    return Hardware(
        name=THIS,
        memory=rates.memory,
        rates=rates.peaks,
        bandwidth=rates.copy,
        links=links(rates.links) or (Link(1, rates.copy, rates.launch),),
        context=rates.context,
        efficiency={
            "matmul": rates.matmul[dtype] / peak,
            "attention": rates.attention / peak,
            "convolution": rates.convolution / peak,
            "memory": 1.0,
            "link": 1.0,
        },
        launch=rates.launch,
        startup=rates.launch if on_host else 3e-6,
        source=source,
        is_cpu=on_host,
    )


def _random(shape: tuple[int, ...], dtype: str, device: torch.device) -> Tensor:
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    return torch.randn(shape, dtype=kinds[dtype], device=device)


def _across(clock: Clock) -> tuple[float, float]:
    """Bytes/s to the device and back, all ranks at once."""
    if clock.device.type == "cpu":
        return 0.0, 0.0
    host = torch.zeros(ACROSS // 4, pin_memory=True)
    there = torch.zeros(ACROSS // 4, device=clock.device)

    def rate(target: Tensor, source: Tensor) -> float:
        return ACROSS / clock.seconds(lambda: target.copy_(source, non_blocking=True))

    return rate(there, host), rate(host, there)


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // world_size()


def _context(device: torch.device) -> int:
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return total - free - torch.cuda.memory_reserved(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
