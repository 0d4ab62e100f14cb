"""A job as data: which model, which parts, which layout, which cache, which weights, and how to call it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ditmesh.config import ParallelismConfig
from ditmesh.job.caching import Cached
from ditmesh.job.example import Example
from ditmesh.job.facts import PipelineFacts
from ditmesh.job.images import Inputs
from ditmesh.job.quantization import Quantization
from ditmesh.job.weights import LoraWeights, Part


@dataclass(frozen=True)
class Flags:
    """What a verb calls the things that may be refused: its own words go into the error."""

    kernel: str = "--attn"
    cache: str = "--cache"
    compile: str = "--compile"
    offload: Mapping[str, str] = field(
        default_factory=lambda: {
            "model": "--cpu-offload",
            "sequential": "--sequential-offload",
            "block_level": "--group-offload",
            "leaf_level": "--group-offload",
        }
    )
    tf32: str = "tf32"
    vae_tiling: str = "--vae-tiling"
    vae_slicing: str = "--vae-slicing"
    lora: str = "--lora-path"
    device: str = "--device"
    noise_device: str = "--generator-device"
    allow_pickle: str = "--allow-pickle"


@dataclass(frozen=True)
class Tuning:
    """What makes a loaded pipeline smaller or faster, and not another one.

    Attributes:
        offload: what waits on the CPU until it runs: whole parts ("model"), layer by layer ("sequential"), or groups
            of a transformer's blocks or layers ("block_level", "leaf_level").
    """

    compile: bool = False
    vae_slicing: bool = False
    vae_tiling: bool = False
    offload: str | None = None
    tf32: bool = False


@dataclass(frozen=True)
class Job:
    """All that decides what is drawn; every rank makes the same one from the same command line.

    Attributes:
        example: the pipeline's class, and what holds where nothing else is said.
        model: a folder or hub id, and ``facts`` what its JSON files say.
        layout: of all ranks, replicas included.
        call: arguments of the pipeline's call, but for the generator and the kind of output.
        asked: those of them that the user gave.
        inputs: the images that go in; ``call`` gets them when they are opened.
        parts: components that are loaded from elsewhere.
        kernel: the attention kernel, as diffusers names it.
        adapters: files of LoRA weights by name, loaded beside the model's and off until a request names them.
        allow_pickle: whether weights may be read from pickles.
        dtype: of the weights; None for the example's on a GPU, float32 on a CPU.
        device: cuda or cpu; None for whichever there is. ``noise_device`` is where noise is drawn.
    """

    example: Example
    model: str
    facts: PipelineFacts
    layout: ParallelismConfig
    call: Mapping[str, Any]
    asked: frozenset[str] = frozenset()
    seed: int = 0
    inputs: Inputs = Inputs()
    parts: tuple[Part, ...] = ()
    lora: LoraWeights | None = None
    adapters: Mapping[str, Path] = field(default_factory=dict[str, Path])
    quantized: Quantization | None = None
    allow_pickle: bool = False
    cache: Cached | None = None
    kernel: str | None = None
    tuning: Tuning = Tuning()
    dtype: str | None = None
    device: str | None = None
    noise_device: str = "cpu"
    flags: Flags = field(default=Flags(), compare=False)
