"""Rehearse a job: one rank's pipeline is built without weights, enabled as ever, and called once."""

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import nn
from transformers import PreTrainedModel

from ditmesh.config import ParamsModifier
from ditmesh.job.caching import Cached
from ditmesh.job.classes import diffusers_class
from ditmesh.job.description import Job
from ditmesh.job.images import open_inputs
from ditmesh.job.load import share_out
from ditmesh.job.quantization import KINDS
from ditmesh.pipeline import components
from ditmesh.planner.building import build_part, build_pipeline
from ditmesh.planner.phases import ENCODE, STEP, Recorder, phases
from ditmesh.planner.workload import Workload
from ditmesh.runtime.world import ALONE
from ditmesh.sheets import find_sheet
from ditmesh.upstream.alone import alone
from ditmesh.upstream.modules import expand
from ditmesh.upstream.quantizers import quantize_linears
from ditmesh.upstream.unread import nbytes

SIDE = 1024  # of a picture that nobody gave
READING = 64 << 20  # bytes that reading takes beside the weights, as benchmarks/load.py measures it
EVERY_STEP = {"residual_diff_threshold": 1.0}


def rehearse(job: Job, rank: int) -> Workload:
    """What a rank of a job does for one call; those of other branches and replicas do what those of the first do.

    Raises:
        ValueError: the job cannot run so; or nobody can know what it does without its weights.
    """
    with torch.no_grad(), ExitStack() as undo:
        pipe = _build(job)
        largest = max(x.numel() * x.element_size() for part in components(pipe).values() for x in part.parameters())
        unknown = _change(pipe, job)
        recorder = Recorder(job.layout)
        for name, part in components(pipe).items():
            _follow(recorder, name, part, undo)
        first = rank % (job.layout.world_size // job.layout.dp_size // job.layout.cfg_size)
        undo.enter_context(alone(first, job.layout.world_size))
        # Which kernel attends changes none of what is counted here, and not all of them are on a CPU.
        share_out(pipe, replace(job, kernel=None, cache=job.cache and _always(job.cache)))
        weights = weights_of(pipe)
        if (scheduler := pipe.components.get("scheduler")) is not None:
            recorder.follow_steps(scheduler, undo)
        _repeat_calls(recorder, pipe, job, undo)
        pipe.set_progress_bar_config(disable=True)
        with recorder.watch:
            _call(pipe, job)
        recorder.finish()
    buffers = _buffers(recorder, job)
    host = READING + largest + (sum(weights.values()) if job.device == "cpu" else 0)
    found = phases(recorder, job.cache is not None, sum(buffers.values()))
    return Workload(rank, weights, buffers, found, host, unknown)


def _build(job: Job) -> Any:
    dtype = getattr(torch, job.dtype or job.example.dtype)
    parts = {part.name: build_part(part, dtype) for part in job.parts}
    return build_pipeline(diffusers_class(job.example.pipeline), job.model, dtype, parts)


def _change(pipe: Any, job: Job) -> tuple[str, ...]:
    """What is done to a pipeline before it is shared out; returns what is not counted.

    Raises:
        ValueError: weights that cannot be quantized without their numbers.
    """
    if job.quantized and KINDS[job.quantized.kind] == "bitsandbytes":
        raise ValueError(
            f"{job.quantized.kind}: bitsandbytes makes such weights of numbers, which a plan does not read; plan int8, "
            f"which is no smaller, or measure it: ditmesh bench."
        )
    for name in job.quantized.components if job.quantized else ():
        quantize_linears(pipe.components[name], job.quantized.kind if job.quantized else "")
    if job.tuning.vae_tiling:
        pipe.vae.enable_tiling()
    if job.tuning.vae_slicing:
        pipe.vae.enable_slicing()
    unknown = []
    if job.lora is not None and not job.lora.fuse:
        unknown.append(f"LoRA weights that are not fused ({job.lora.file.name})")
    if job.tuning.offload is not None:
        unknown.append(f"what {job.tuning.offload} offloading keeps on the host, and what it moves")
    return tuple(unknown)


def _always(cache: Cached) -> Cached:
    """The cache, where it leaves out blocks whenever it may: steps are so alike as nobody knows before."""

    def change(modifier: ParamsModifier) -> ParamsModifier:
        config = modifier.cache_config
        return modifier if config is None else replace(modifier, cache_config=config.update(**EVERY_STEP))

    modifiers = tuple(tuple(map(change, several)) for several in cache.modifiers)
    return replace(cache, config=cache.config.update(**EVERY_STEP), modifiers=modifiers)


def _follow(recorder: Recorder, name: str, part: nn.Module, undo: ExitStack) -> None:
    """Let blocks of a component that are alike be counted, and the calls of a transformer be seen."""
    spec = find_sheet(type(part).__name__)
    lists = [[block for _, block in expand(part, f"{blocks.path}.*")] for blocks in spec.blocks] if spec else []
    for blocks in lists or (_layers(part) if isinstance(part, PreTrainedModel) else []):
        recorder.repeats.stand_in(blocks, undo)
    if spec is not None and not spec.controls:
        recorder.follow(name, part, undo)


def _repeat_calls(recorder: Recorder, pipe: Any, job: Job, undo: ExitStack) -> None:
    """Let calls of transformers be counted, where the calls before do not decide what one does."""
    if job.layout.pp_size == job.layout.cfg_size == 1 and job.cache is None:
        for name in job.facts.transformers:
            notice = partial(recorder.notice, name)
            recorder.repeats.stand_in_for_calls(pipe.components[name], notice, undo)


def _layers(module: nn.Module) -> list[list[nn.Module]]:
    """The lists of layers in a language model that are not in layers themselves."""
    found: list[list[nn.Module]] = []
    for child in module.children():
        inside = list(child.children())
        is_list = isinstance(child, nn.ModuleList) and len(inside) > 2 and len({type(x) for x in inside}) == 1
        found += [inside] if is_list else _layers(child)
    return found


def weights_of(pipe: Any) -> dict[str, int]:
    """The bytes of each component's parameters and buffers; what two share counts once."""
    known: set[int] = set()
    found: dict[str, int] = {}
    for name, part in components(pipe).items():
        mine = {id(x): x for x in (*part.parameters(), *part.buffers()) if id(x) not in known}
        known |= mine.keys()
        found[name] = sum(map(nbytes, mine.values()))
    return found


def _buffers(recorder: Recorder, job: Job) -> dict[str, int]:
    found = {"pipefusion": recorder.repeats.held} if job.layout.patches > 1 else {}
    if job.cache is not None:
        before = next((part.left for part in recorder.parts if part.name == ENCODE), 0)
        steps = [part.left for part in recorder.parts if part.name == STEP]
        found["cache"] = max(max(steps, default=0) - before - sum(found.values()), 0)
    return found


def _call(pipe: Any, job: Job) -> None:
    """Call the pipeline for numbers nobody looks at.

    Raises:
        ValueError: it asks for numbers that there are not.
    """
    call = {**job.call, **open_inputs(job.inputs, job.example.images, ALONE)}
    takes = job.example.images
    if takes is not None and takes.needed and takes.image not in call:
        size = call.get("width") or SIDE, call.get("height") or SIDE
        call[takes.image] = [Image.new(takes.mode, size)] if takes.many else Image.new(takes.mode, size)
        if takes.mask:
            call[takes.mask] = Image.new("L", size)
    try:
        pipe(**call, generator=torch.Generator().manual_seed(0), output_type="pt")
    except NotImplementedError as error:
        raise ValueError(
            f"what {job.model} does depends on its weights, which a plan does not read ({str(error).split('.')[0]}); "
            f"measure it instead: ditmesh bench."
        ) from error
