"""The devices of this machine, and what a job may ask of them."""

import torch

from ditmesh.cli.job import Job, World


def check_devices(job: Job, ranks_here: int) -> None:
    """Refuse what this machine's devices cannot do.

    Raises:
        ValueError: more ranks than GPUs, or noise from a GPU or offloading to it where there is none.
    """
    gpus = torch.cuda.device_count()
    if gpus and ranks_here > gpus:
        raise ValueError(
            f"--parallel {job.layout} needs {ranks_here} GPUs on this machine, and {gpus} can be seen; "
            f"name a layout of {gpus} ranks, or check CUDA_VISIBLE_DEVICES."
        )
    if job.options.generator_device == "cuda" and not gpus:
        raise ValueError("--generator-device cuda, but no GPU can be seen; use cpu.")
    if job.options.cpu_offload and not gpus:
        raise ValueError(
            "--cpu-offload keeps on the GPU only what runs, and no GPU can be seen: all is on the CPU already; "
            "leave it out."
        )


def device_of(world: World) -> torch.device:
    """The device of this rank."""
    return torch.device("cuda", world.local_rank) if torch.cuda.is_available() else torch.device("cpu")


def name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
