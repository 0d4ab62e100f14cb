"""The devices of this machine, and what a job may ask of them."""

import torch

from ditmesh.job.description import Job
from ditmesh.runtime.world import World

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


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
        (flags.cpu_offload, job.tuning.cpu_offload),
        (flags.tf32, job.tuning.tf32),
    ):
        if asked and not gpus:
            raise ValueError(
                f"{flag} is for GPUs, and no GPU can be seen; leave it out, or check CUDA_VISIBLE_DEVICES."
            )


def device_of(world: World) -> torch.device:
    """The device of this rank."""
    return torch.device("cuda", world.local_rank) if torch.cuda.is_available() else torch.device("cpu")


def name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def dtype_of(job: Job, device: torch.device) -> torch.dtype:
    """The number format of the weights."""
    return DTYPES[job.dtype or (job.example.dtype if device.type == "cuda" else "float32")]
