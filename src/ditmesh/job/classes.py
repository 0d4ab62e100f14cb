"""What is checked with diffusers' classes at hand, before any weight is read."""

import difflib
import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import diffusers
import torch
from accelerate import init_empty_weights  # pyright: ignore[reportMissingTypeStubs]

import ditmesh
from ditmesh.job.call import OURS, check_two_branches
from ditmesh.job.description import Job
from ditmesh.job.images import open_inputs
from ditmesh.runtime.world import ALONE, World
from ditmesh.upstream.dispatcher import check_backend
from ditmesh.upstream.modules import repeated_blocks
from ditmesh.upstream.offload import takes_groups


def check_job(job: Job, world: World = ALONE) -> Job:
    """The job with its images opened; every rank of the world must.

    Raises:
        ValueError: something asked for is not there, or the pipeline cannot do it.
    """
    check_attention(job)
    check_call(job)
    check_classes(job)
    check_cache(job)
    return replace(job, call={**job.call, **open_inputs(job.inputs, job.example.images, world)})


def diffusers_class(name: str) -> Any:
    """A class of diffusers by its name.

    Raises:
        ValueError: there is none, or a package it is made with is not installed.
    """
    if name not in dir(diffusers):
        raise ValueError(f"the diffusers {diffusers.__version__} that is installed has no {name}; upgrade diffusers.")
    return getattr(diffusers, name)  # its namespace loads its classes on demand


def taken_arguments(job: Job) -> Mapping[str, Any]:
    """The arguments that the pipeline's call takes and users may give, with their defaults."""
    parameters = inspect.signature(diffusers_class(job.example.pipeline).__call__).parameters
    return {name: x.default for name, x in parameters.items() if name not in ("self", *OURS)}


def check_attention(job: Job) -> None:
    """Refuse an attention kernel that diffusers does not have, or that cannot run here."""
    if job.kernel is not None:
        device_type = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            check_backend(job.kernel, job.layout.ring_size, device_type)
        except ValueError as error:
            raise ValueError(f"{job.flags.kernel}: {error}") from error


def check_call(job: Job) -> None:
    """Refuse an argument that the pipeline's call does not take, or guidance that it does not have."""
    takes, title = taken_arguments(job), job.example.pipeline
    for name in sorted(job.asked):
        if name not in takes:
            close = difflib.get_close_matches(name, takes, n=1)
            cure = f"did you mean {close[0]}?" if close else f"leave it out, or use one of {', '.join(takes)}."
            raise ValueError(f"{title} takes no {name}; {cure}")
    if job.layout.cfg_size == 1:
        return
    is_distilled = any(part.config.get("guidance_embeds") for part in job.facts.transformers.values())
    if is_distilled and "negative_prompt" not in takes:
        raise ValueError(
            f"guidance parallelism shares two branches between two ranks, and {job.model} is guidance-distilled: a "
            f"{title} has no second one; use these ranks otherwise: ulysses, or data for two pictures at once"
        )
    if "prompt" in job.call:  # else each row of a file has a call of its own
        check_two_branches({**takes, **job.call}, takes, title)


def check_classes(job: Job) -> None:
    """Refuse what the classes of the pipeline, its VAE and its transformers have no way to do."""
    title, tuning = job.example.pipeline, job.tuning
    if (job.lora or job.adapters) and "load_lora_weights" not in dir(diffusers_class(title)):
        raise ValueError(f"{job.flags.lora}: a {title} cannot load LoRA weights; leave it out.")
    for part in job.parts:
        diffusers_class(part.class_name)
    vae = dir(diffusers_class(job.facts.components["vae"])) if "vae" in job.facts.components else []
    for flag, asked, switch in (
        (job.flags.vae_tiling, tuning.vae_tiling, "enable_tiling"),
        (job.flags.vae_slicing, tuning.vae_slicing, "enable_slicing"),
    ):
        if asked and switch not in vae:
            raise ValueError(f"{flag}: the VAE of a {title} has no {switch}; leave it out.")
    for facts in job.facts.transformers.values() if tuning.offload in ("block_level", "leaf_level") else ():
        if not takes_groups(diffusers_class(facts.class_name)):
            raise ValueError(
                f"{job.flags.offload[tuning.offload or '']}: diffusers cannot offload a {facts.class_name} by groups; "
                f"use {job.flags.offload['model']}."
            )
    for facts in job.facts.transformers.values() if tuning.compile else ():
        if not repeated_blocks(diffusers_class(facts.class_name)):
            raise ValueError(
                f"{job.flags.compile}: diffusers does not say which blocks {facts.class_name} repeats; leave it out."
            )


def check_cache(job: Job) -> None:
    """Refuse a cache that does not fit the blocks, which transformers without weights tell."""
    if job.cache is None:
        return
    arguments = job.cache.arguments()
    modifiers = arguments.pop("params_modifiers") or [None] * len(job.facts.transformers)
    for facts, own in zip(job.facts.transformers.values(), modifiers, strict=True):
        with init_empty_weights():
            transformer = diffusers_class(facts.class_name).from_config(dict(facts.config))
        try:
            ditmesh.enable_cache(transformer, **arguments, params_modifiers=own)
        except ValueError as error:
            raise ValueError(f"{job.flags.cache}: {error}") from error
