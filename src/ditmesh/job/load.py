"""From files to a pipeline that is ready to run on this rank."""

import logging
from pathlib import Path
from typing import Any

import torch

import ditmesh
from ditmesh.job.classes import diffusers_class
from ditmesh.job.description import Job
from ditmesh.job.weights import Part

KEPT_WHOLE = "every rank keeps the whole of "  # so the library says it
SHOWN = 200  # letters of what peft has to say, which may name every module


class Notes(logging.Handler):
    """Keeps what the library has to say while it works."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def prepare(job: Job, dtype: torch.dtype, device: torch.device) -> tuple[Any, list[str]]:
    """The pipeline on its device, spread, cached and compiled as the job says.

    Returns:
        the pipeline, and what every rank keeps whole, though sharing it was asked for.
    """
    pipe = load(job, dtype)
    whole = share_out(pipe, job)
    compile_blocks(pipe, job)
    place(pipe, job, device)
    return pipe, whole


def load(job: Job, dtype: torch.dtype) -> Any:
    """The bare pipeline with all its weights, LoRA weights among them, on the CPU.

    Raises:
        ValueError: a package is missing, or the LoRA weights are of another model.
    """
    if job.tuning.tf32:
        torch.set_float32_matmul_precision("high")
    parts = {part.name: load_part(part, dtype) for part in job.parts}
    try:
        pipe = diffusers_class(job.example.pipeline).from_pretrained(path(job.model), dtype=dtype, **parts)
    except ImportError as error:
        raise ValueError(f"{job.model} cannot be loaded: {error}") from error
    if job.lora:
        load_lora(pipe, job)
    if job.tuning.vae_tiling:
        pipe.vae.enable_tiling()
    if job.tuning.vae_slicing:
        pipe.vae.enable_slicing()
    return pipe


def load_part(part: Part, dtype: torch.dtype) -> Any:
    kind = diffusers_class(part.class_name)
    if Path(part.source).expanduser().is_file():
        return kind.from_single_file(str(path(part.source)), dtype=dtype)
    return kind.from_pretrained(path(part.source), subfolder=part.subfolder, dtype=dtype)


def path(source: str) -> Path | str:
    """A folder or file of this machine, or the hub id it is."""
    here = Path(source).expanduser()
    return here if here.exists() else source


def load_lora(pipe: Any, job: Job) -> None:
    assert job.lora is not None
    other = f"{job.lora.file} holds no weights for this {job.example.pipeline}; it was made for another model"
    try:
        pipe.load_lora_weights(str(job.lora.file.parent), weight_name=job.lora.file.name)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{other}: {' '.join(str(error).split())[:SHOWN]} ...") from error
    if not pipe.get_list_adapters():
        raise ValueError(f"{other}.")
    if job.lora.fuse:
        pipe.fuse_lora()
        pipe.unload_lora_weights()


def share_out(pipe: Any, job: Job) -> list[str]:
    """Apply the layout, the cache and the attention kernel; a pipeline with none of them stays as it was loaded.

    Returns:
        what every rank keeps whole, though sharing it was asked for.
    """
    asked: dict[str, Any] = {"attention_backend": job.kernel} | (job.cache.arguments() if job.cache else {})
    if job.layout.world_size > job.layout.dp_size:  # replicas alone need no process group
        asked["parallelism_config"] = job.layout
    notes, logger = Notes(), logging.getLogger("ditmesh")
    level = logger.level
    logger.addHandler(notes)
    logger.setLevel(min(level or logging.INFO, logging.INFO))
    try:
        if any(asked.values()):
            ditmesh.enable_cache(pipe, **asked)
    finally:
        logger.removeHandler(notes)
        logger.setLevel(level)
    return [line.removeprefix(KEPT_WHOLE) for line in notes.lines if line.startswith(KEPT_WHOLE)]


def compile_blocks(pipe: Any, job: Job) -> None:
    """Regional compilation: a transformer's repeated block is compiled once, at its first call."""
    if job.tuning.compile:
        for name in job.facts.transformers:
            pipe.components[name].compile_repeated_blocks()


def place(pipe: Any, job: Job, device: torch.device) -> None:
    """Bring the pipeline to its device, or let its parts go there one at a time."""
    if job.tuning.cpu_offload:
        pipe.enable_model_cpu_offload(device=device)
    else:
        pipe.to(device)
