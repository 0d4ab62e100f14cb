"""Peak memory of one rank, phase by phase: load, encode, denoise, decode.

A stock pipeline does not say where its phases begin, so the instances' own forward hooks do: the first call of a
transformer, or of its ControlNet, begins "denoise", the first call of the VAE's decoder after it begins "decode". The
hooks are removed when the call ends.
"""

import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

LOAD, HOST = "load", "load, host"
PHASES: tuple[str, ...] = (LOAD, "encode", "denoise", "decode")
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # of Linux
CLEAR_PEAK = "5"  # set the peak resident size to the present one (proc_pid_clear_refs(5))


@dataclass(frozen=True)
class Gauge:
    """Measures a peak in bytes, and says what it measures."""

    title: str
    reset: Callable[[], object]
    peak: Callable[[], int]


def gauge_for(device: torch.device) -> Gauge:
    """The best measure there is for a device: PyTorch's allocator, or what the system holds for this process."""
    if device.type == "cuda":
        reset, peak = torch.cuda.reset_peak_memory_stats, torch.cuda.max_memory_allocated
        return Gauge("Peak device memory allocated, GiB", partial(reset, device), partial(peak, device))
    whole = "Peak resident memory"
    try:
        CLEAR.write_text(CLEAR_PEAK)
    except OSError:  # not Linux, or a container that does not allow it
        since = f"{whole} since the start, GiB (this system cannot measure phases apart)"
        return Gauge(since, lambda: None, _lifetime_peak)
    title = f"{whole} of the process, GiB (Python and libraries included)"
    return Gauge(title, partial(CLEAR.write_text, CLEAR_PEAK), _resident_peak)


def _resident_peak() -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def _lifetime_peak() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


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

    def _follow(self, before: str, after: str, *_: object) -> None:
        if self.phase == before:
            self.begin(after)

    @contextmanager
    def of_call(self, pipe: Any) -> Iterator[None]:
        """Measure the phases of one call of the pipeline."""
        starts = [
            (part, partial(self._follow, "encode", "denoise"))
            for name, part in pipe.components.items()
            if name.startswith(("transformer", "controlnet")) and part is not None
        ]
        starts.append((pipe.vae.decoder, partial(self._follow, "denoise", "decode")))
        handles = [module.register_forward_pre_hook(hook) for module, hook in starts]
        self.begin("encode")
        try:
            yield
        finally:
            self.begin(None)
            for handle in handles:
                handle.remove()
