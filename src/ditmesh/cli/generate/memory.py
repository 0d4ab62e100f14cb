"""Peak memory of one rank, phase by phase: load, encode, denoise, decode.

A stock pipeline does not say where its phases begin, so the instances' own forward hooks do: the first call of a
transformer, or of its ControlNet, begins "denoise", the first call of the VAE's decoder after it begins "decode". The
hooks are removed when the call ends.
"""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

LOAD, HOST = "load", "load, host"
PHASES: tuple[str, ...] = (LOAD, "encode", "denoise", "decode")
GIB = 1024**3
CLEAR_PEAK = "5"  # for /proc/PID/clear_refs: set the peak resident size to the present one (proc_pid_clear_refs(5))


class Gauge(Protocol):
    """Measures a peak, and says what it measures."""

    title: str

    def reset(self) -> None: ...
    def peak(self) -> int: ...


class DeviceMemory:
    """What PyTorch's allocator holds on a CUDA device."""

    title = "Peak device memory allocated, GiB"

    def __init__(self, device: torch.device):
        self.device = device

    def reset(self) -> None:
        torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated(self.device)


class ResidentMemory:
    """What Linux holds in memory for this process, Python and libraries included."""

    title = "Peak resident memory of the process, GiB (Python and libraries included)"
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def reset(self) -> None:
        self.clear.write_text(CLEAR_PEAK)

    def peak(self) -> int:
        line = next(line for line in self.status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024


class LifetimeMemory:
    """The peak since the process began, where the system has no way to reset it."""

    title = "Peak resident memory since the start, GiB (this system cannot measure phases apart)"

    def reset(self) -> None:
        pass

    def peak(self) -> int:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def gauge_for(device: torch.device) -> Gauge:
    """The best measure there is for a device."""
    if device.type == "cuda":
        return DeviceMemory(device)
    resident = ResidentMemory()
    try:
        resident.reset()
    except OSError:  # not Linux, or a container that does not allow it
        return LifetimeMemory()
    return resident


def peaks_for(device: torch.device) -> "PhasePeaks":
    """The peaks of a rank whose pipeline is on a device."""
    return PhasePeaks(gauge_for(device), None if device.type == "cpu" else gauge_for(torch.device("cpu")))


class PhasePeaks:
    """The highest peak of each phase so far in bytes, and of the host while a device with its own memory is loaded."""

    def __init__(self, gauge: Gauge, host: Gauge | None = None):
        self.gauge, self.host = gauge, host
        self.peaks = dict.fromkeys(PHASES if host is None else (HOST, *PHASES), 0)
        self.phase: str | None = None

    def begin(self, phase: str | None) -> None:
        """End the phase that runs, and begin another, or none."""
        if self.phase is not None:
            self.peaks[self.phase] = max(self.peaks[self.phase], self.gauge.peak())
        self.gauge.reset()
        if self.host is not None:
            self._measure_host(phase)
        self.phase = phase

    def _measure_host(self, phase: str | None) -> None:
        assert self.host is not None
        if self.phase == LOAD:
            self.peaks[HOST] = self.host.peak()
        if phase == LOAD:
            self.host.reset()

    @contextmanager
    def of_call(self, pipe: Any) -> Iterator[None]:
        """Measure the phases of one call of the pipeline."""

        def follows(before: str, after: str):
            def hook(*_: Any) -> None:
                if self.phase == before:
                    self.begin(after)

            return hook

        starts = [
            (part, follows("encode", "denoise"))
            for name, part in pipe.components.items()
            if name.startswith(("transformer", "controlnet")) and part is not None
        ]
        starts.append((pipe.vae.decoder, follows("denoise", "decode")))
        handles = [module.register_forward_pre_hook(hook) for module, hook in starts]
        self.begin("encode")
        try:
            yield
        finally:
            self.begin(None)
            for handle in handles:
                handle.remove()
