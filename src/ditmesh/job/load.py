"""From files to a pipeline that is ready to run on this rank."""

from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.hooks.group_offloading import apply_group_offloading
from torch import nn

import ditmesh
from ditmesh.api import kept_whole
from ditmesh.job.classes import diffusers_class
from ditmesh.job.description import Job
from ditmesh.job.weights import Part
from ditmesh.loading.errors import told_in_a_line
from ditmesh.loading.reading import PICKLES, load_pipeline, nothing_read, read_in, safetensors_alone
from ditmesh.pipeline import components
from ditmesh.upstream.offload import takes_groups
from ditmesh.upstream.quantizers import quantize_linears

SHOWN = 200  # letters of what peft has to say, which may name every module


def prepare(job: Job, dtype: torch.dtype, device: torch.device) -> tuple[Any, list[str]]:
    """The pipeline on its device, spread, cached and compiled as the job says.

    Returns:
        the pipeline, and what every rank keeps whole, though sharing it was asked for.
    """
    with nothing_read():
        pipe = load(job, dtype)
        whole = share_out(pipe, job)
    read_in(components(pipe).values(), torch.device("cpu") if job.tuning.offload else device)
    compile_blocks(pipe, job)
    place(pipe, job, device)
    return pipe, whole


def load_bare(job: Job, dtype: torch.dtype) -> Any:
    """The pipeline with all its weights, LoRA weights among them, on the CPU, neither spread nor cached."""
    with nothing_read():
        pipe = load(job, dtype)
    read_in(components(pipe).values(), torch.device("cpu"))
    return pipe


def load(job: Job, dtype: torch.dtype) -> Any:
    """The bare pipeline, quantized if asked; where ``nothing_read`` is in force its weights are not read yet.

    Raises:
        ValueError: a package is missing, or the LoRA weights are of another model.
    """
    if job.tuning.tf32:
        torch.set_float32_matmul_precision("high")
    parts = {part.name: load_part(part, dtype, job) for part in job.parts}
    kind, allow = diffusers_class(job.example.pipeline), job.flags.allow_pickle
    pipe = load_pipeline(kind, str(path(job.model)), job.allow_pickle, allow, dtype=dtype, **parts)
    if job.lora:
        load_lora(pipe, job)
    if job.adapters:
        load_adapters(pipe, job)
    if job.quantized:
        for name in job.quantized.components:
            quantize_linears(pipe.components[name], job.quantized.kind)
    if job.tuning.vae_tiling:
        pipe.vae.enable_tiling()
    if job.tuning.vae_slicing:
        pipe.vae.enable_slicing()
    return pipe


def load_part(part: Part, dtype: torch.dtype, job: Job) -> Any:
    kind, source = diffusers_class(part.class_name), Path(path(part.source))
    with told_in_a_line(part.source):
        if source.is_file():
            if source.suffix in PICKLES and not job.allow_pickle:
                raise ValueError(f"it is a pickle, which runs what it holds; pass {job.flags.allow_pickle} to trust it")
            return kind.from_single_file(str(source), dtype=dtype)
        with safetensors_alone(source, job.allow_pickle, job.flags.allow_pickle) as files:
            return kind.from_pretrained(path(part.source), subfolder=part.subfolder, dtype=dtype, **files)


def path(source: str) -> Path | str:
    """A folder or file of this machine, or the hub id it is."""
    here = Path(source).expanduser()
    return here if here.exists() else source


def load_lora(pipe: Any, job: Job) -> None:
    assert job.lora is not None
    load_adapter(pipe, job, job.lora.file)
    if job.lora.fuse:
        pipe.fuse_lora()
        pipe.unload_lora_weights()


def load_adapters(pipe: Any, job: Job) -> None:
    """Load those that requests may name, and leave on what was on."""
    own = list(pipe.get_active_adapters()) if job.lora and not job.lora.fuse else []
    for name, file in job.adapters.items():
        load_adapter(pipe, job, file, adapter_name=name)
    choose_adapters(pipe, own, [])


def choose_adapters(pipe: Any, own: Sequence[str], chosen: Sequence[tuple[str, float]]) -> None:
    """Have the pipeline's own adapters on, those chosen with their scales, and no other."""
    if not own and not chosen:
        pipe.disable_lora()
        return
    pipe.enable_lora()
    pipe.set_adapters([*own, *(name for name, _ in chosen)], [*[1.0] * len(own), *(scale for _, scale in chosen)])


def load_adapter(pipe: Any, job: Job, file: Path, **name: str) -> None:
    """Load a file of LoRA weights, beside what is loaded.

    Raises:
        ValueError: it is of another model.
    """
    other = f"{file} holds no weights for this {job.example.pipeline}; it was made for another model"
    before = pipe.get_list_adapters()
    try:
        pipe.load_lora_weights(str(file.parent), weight_name=file.name, **name)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{other}: {' '.join(str(error).split())[:SHOWN]} ...") from error
    if pipe.get_list_adapters() == before:
        raise ValueError(f"{other}.")


def share_out(pipe: Any, job: Job) -> list[str]:
    """Apply the layout, the cache and the attention kernel; a pipeline with none of them stays as it was loaded.

    Returns:
        what every rank keeps whole, though sharing it was asked for.
    """
    asked: dict[str, Any] = {"attention_backend": job.kernel} | (job.cache.arguments() if job.cache else {})
    if job.layout.world_size > job.layout.dp_size:  # replicas alone need no process group
        asked["parallelism_config"] = job.layout
    if not any(asked.values()):
        return []
    ditmesh.enable_cache(pipe, **asked)
    return kept_whole(pipe)


def compile_blocks(pipe: Any, job: Job) -> None:
    """Regional compilation: a transformer's repeated block is compiled once, at its first call."""
    if job.tuning.compile:
        for name in job.facts.transformers:
            pipe.components[name].compile_repeated_blocks()


def place(pipe: Any, job: Job, device: torch.device) -> None:
    """Bring the pipeline to its device, or let its parts go there one at a time."""
    if job.tuning.offload is None:
        pipe.to(device)
    elif job.tuning.offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif job.tuning.offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    else:
        offload_groups(pipe, job.facts.transformers, job.tuning.offload, device)


def offload_groups(pipe: Any, transformers: Container[str], kind: str, device: torch.device) -> None:
    """Let the blocks or layers of the transformers wait on the CPU, and the layers of all else.

    On a GPU the next group of a transformer comes in while one computes. What diffusers cannot offload so goes to the
    device; by blocks it would leave autoencoders, which are not called as a whole, on the CPU.
    """
    for name, part in pipe.components.items():
        if isinstance(part, nn.Module) and takes_groups(type(part)):
            by = kind if name in transformers else "leaf_level"
            stream = name in transformers and device.type == "cuda"
            apply_group_offloading(part, device, offload_type=by, num_blocks_per_group=1, use_stream=stream)
        elif isinstance(part, nn.Module):
            part.to(device)
