"""The devices of this machine, and what a job may ask of them."""

import os
from pathlib import Path

import torch

from ditmesh.config import ParallelismConfig
from ditmesh.job.description import Job
from ditmesh.runtime.launch import cores
from ditmesh.runtime.world import World

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
GIB = 1024**3
RANKS_PER_CORE, FEW_RANKS = 4, 16  # on a CPU; so few run on any machine, for trying a layout out
WEIGHTS = (".safetensors", ".bin")


def check_devices(job: Job, ranks_here: int) -> None:
    """Refuse what this machine's devices cannot do.

    Raises:
        ValueError: more ranks than GPUs, or what only a GPU can where there is none.
    """
    gpus, flags = torch.cuda.device_count(), job.flags
    if gpus and ranks_here > gpus:
        raise ValueError(
            f"layout {job.layout} needs {ranks_here} GPUs on this machine, and {gpus} can be seen; "
            f"name a layout of {gpus} ranks, or check CUDA_VISIBLE_DEVICES."
        )
    for flag, device in ((flags.device, job.device), (flags.noise_device, job.noise_device)):
        if device not in (None, "cuda", "cpu"):
            raise ValueError(f"{flag} {device!r} is unknown; use cpu or cuda.")
    for flag, asked in (
        (f"{flags.device} cuda", job.device == "cuda"),
        (f"{flags.noise_device} cuda", job.noise_device == "cuda"),
        (flags.offload.get(job.tuning.offload or "", ""), job.tuning.offload is not None),
        (flags.tf32, job.tuning.tf32),
    ):
        if asked and not gpus:
            raise ValueError(
                f"{flag} is for GPUs, and no GPU can be seen; leave it out, or check CUDA_VISIBLE_DEVICES."
            )


def check_bearable(layout: ParallelismConfig, ranks_here: int, model: str) -> None:
    """Refuse more ranks on a CPU than its cores and memory bear.

    Raises:
        ValueError: too many ranks; each would load a pipeline of its own.
    """
    if torch.cuda.is_available():
        return  # there the GPUs are counted
    how = "name smaller degrees, or add --oversubscribe to start them all the same"
    most = max(FEW_RANKS, RANKS_PER_CORE * cores())
    if ranks_here > most:
        raise ValueError(
            f"layout {layout} starts {ranks_here} ranks on this machine, and its {cores()} CPU cores bear {most}; {how}"
        )
    weights = sum(file.stat().st_size for file in Path(model).expanduser().rglob("*.*") if file.suffix in WEIGHTS)
    # Ranks of tensor parallelism and of a pipeline share the weights; all others have them whole.
    copies = max(1, ranks_here // (layout.tp_size * layout.pp_size))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if copies * weights > memory:
        raise ValueError(
            f"layout {layout} holds the {weights / GIB:.1f} GiB of weights of {model} {copies} times, and this machine "
            f"has {memory / GIB:.1f} GiB of memory; {how}"
        )


def device_of(world: World) -> torch.device:
    """The device of this rank."""
    return torch.device("cuda", world.local_rank) if torch.cuda.is_available() else torch.device("cpu")


def name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def dtype_of(job: Job, device: torch.device) -> torch.dtype:
    """The number format of the weights."""
    return DTYPES[job.dtype or (job.example.dtype if device.type == "cuda" else "float32")]
