"""What `ditmesh t2i` asks of this machine, and what several machines have to agree on, before anything is loaded."""

import hashlib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import torch

from ditmesh.cli.t2i_job import BatchJob

PACKAGES = ("ditmesh", "torch", "diffusers", "transformers")
OWN = ("node_rank", "output_dir", "prompts_file", "model_name", "log_dir", "num_gpus", "nnodes")
SAMPLE = 1 << 16  # bytes read in the middle of a file of weights


def check_devices(job: BatchJob, ranks_here: int) -> None:
    """Refuse what this machine's devices cannot do.

    Raises:
        ValueError: more ranks than GPUs, or what only a GPU can where there is none.
    """
    gpus, optimizations = torch.cuda.device_count(), job.optimizations
    if job.options.device not in (None, "cuda", "cpu"):
        raise ValueError(f"--device {job.options.device!r} is unknown; use cuda or cpu.")
    for flag, asked in (
        ("--device cuda", job.options.device == "cuda"),
        ("cpu_offload", optimizations.cpu_offload),
        ("tf32", optimizations.tf32),
    ):
        if asked and not gpus:
            raise ValueError(f"{flag} is for GPUs, and none can be seen; leave it out, or check CUDA_VISIBLE_DEVICES.")
    if gpus and ranks_here > gpus:
        raise ValueError(
            f"layout {job.layout} needs {ranks_here} GPUs on this machine, and {gpus} can be seen; "
            f"choose degrees whose product is {gpus}, or check CUDA_VISIBLE_DEVICES."
        )
    if optimizations.kernel:
        from ditmesh.api import check_backend  # with it comes diffusers, which takes seconds

        check_backend(optimizations.kernel, job.layout.ring_size, "cuda" if gpus else "cpu")


def job_facts(job: BatchJob) -> dict[str, str]:
    """What has to be the same on every machine, by names for a reader; files by what is in them."""
    options = {f"--{name}": str(value) for name, value in vars(job.options).items() if name not in OWN}
    facts = {**options, "the layout": str(job.layout), "the call": str(sorted(job.call.items()))}
    facts |= {"the model": f"{job.facts.class_name} {fingerprint(job.model)}", "the prompt": str(job.prompt)}
    if job.options.prompts_file is not None:
        with job.options.prompts_file.open("rb") as file:
            facts["the prompts file"] = hashlib.file_digest(file, "blake2b").hexdigest()[:16]
    return facts | {name: version(name) for name in PACKAGES}


def fingerprint(model: str) -> str:
    """A hub id as it is; of a folder a number that other files would hardly share, without reading all of them."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return model
    found = hashlib.blake2b(digest_size=8)
    for part in _samples(folder):
        found.update(part)
    return found.hexdigest()


def _samples(folder: Path) -> Iterator[bytes]:
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
        size = path.stat().st_size
        yield f"{path.relative_to(folder)} {size}\n".encode()
        with path.open("rb") as file:
            file.seek(max(0, size // 2 - SAMPLE // 2))
            yield file.read(SAMPLE)
