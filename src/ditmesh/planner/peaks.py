"""How much memory a rank needs, part by part."""

from collections.abc import Iterable
from dataclasses import dataclass

from ditmesh.planner.hardware import GIB, Hardware
from ditmesh.planner.workload import Phase, Workload


@dataclass(frozen=True)
class Memory:
    """The bytes of one rank.

    Attributes:
        weights, encoders, vae: what is held throughout: transformers and all else, text encoders, VAE.
        buffers: what a request keeps from step to step.
        activations: at the peak of encoding and denoising, ``decode`` at that of decoding.
        context: of the runtime and its communication.
    """

    weights: int
    encoders: int
    vae: int
    buffers: int
    activations: int
    decode: int
    context: int

    @property
    def allocated(self) -> int:
        """The peak of tensors alone: what ``generate --track-memory`` measures."""
        return self.weights + self.encoders + self.vae + self.buffers + max(self.activations, self.decode)

    @property
    def total(self) -> int:
        return self.allocated + self.context


def weigh(work: Workload, device: Hardware) -> Memory:
    """The bytes that a rank needs for one call."""
    encoders = sum(size for name, size in work.weights.items() if "encoder" in name)
    vae = sum(size for name, size in work.weights.items() if name.startswith("vae"))
    peaks = dict.fromkeys(("decode", "other"), 0)
    for phase in work.phases:
        name = phase.name if phase.name in peaks else "other"
        peaks[name] = max(peaks[name], phase.activation_peak + (0 if device.is_cpu else _copies(phase)))
    return Memory(
        weights=sum(work.weights.values()) - encoders - vae,
        encoders=encoders,
        vae=vae,
        buffers=sum(work.buffers.values()),
        activations=peaks["other"],
        decode=peaks["decode"],
        context=device.context,
    )


def _copies(phase: Phase) -> int:
    """The bytes of cuDNN's own copies: its 16-bit convolutions take channels last, and tensors have them first."""
    halves = (one for one in phase.operators if one.kind == "convolution" and one.dtype in ("bfloat16", "float16"))
    return max((one.bytes for one in halves), default=0)


def heaviest(works: Iterable[Workload], device: Hardware) -> Memory:
    """The memory of the rank that needs most."""
    return max((weigh(work, device) for work in works), key=lambda memory: memory.total)


def gib(size: float) -> float:
    """Bytes as GiB."""
    return size / GIB
