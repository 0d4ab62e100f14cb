"""What is checked with diffusers' classes at hand, before any weight is read."""

import difflib
import inspect
from dataclasses import replace
from typing import Any

import diffusers
import torch
from accelerate import init_empty_weights

import ditmesh
from ditmesh import api
from ditmesh.cli.call import OURS
from ditmesh.cli.images import fetch_for_all, open_inputs
from ditmesh.cli.job import Job, World

ALONE = World()


def check_job(job: Job, world: World = ALONE) -> Job:
    """The job with its images opened; every rank of the world must.

    Raises:
        ValueError: something asked for is not there, or the pipeline cannot do it.
    """
    check_attention(job)
    check_call(job)
    check_classes(job)
    check_cache(job)
    fetched = fetch_for_all(job.inputs, world)
    return replace(job, call={**job.call, **open_inputs(job.inputs, job.example.images, fetched)})


def diffusers_class(name: str) -> Any:
    """A class of diffusers by its name.

    Raises:
        ValueError: there is none, or a package it is made with is not installed.
    """
    if name not in dir(diffusers):
        raise ValueError(f"the diffusers {diffusers.__version__} that is installed has no {name}; upgrade diffusers.")
    return getattr(diffusers, name)  # its namespace loads its classes on demand


def check_attention(job: Job) -> None:
    """Refuse an attention kernel that diffusers does not have, or that cannot run here."""
    if job.options.attn is not None:
        device_type = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            api.check_backend(job.options.attn, job.layout.ring_size, device_type)
        except ValueError as error:
            raise ValueError(f"--attn: {error}") from error


def check_call(job: Job) -> None:
    """Refuse an argument that the pipeline's call does not take."""
    pipeline = diffusers_class(job.example.pipeline)
    takes = [name for name in inspect.signature(pipeline.__call__).parameters if name not in ("self", *OURS)]
    for name in sorted(job.asked):
        if name not in takes:
            close = difflib.get_close_matches(name, takes, n=1)
            cure = f"did you mean {close[0]}?" if close else f"leave it out, or use one of {', '.join(takes)}."
            raise ValueError(f"{job.example.pipeline} takes no {name}; {cure}")


def check_classes(job: Job) -> None:
    """Refuse what the classes of the pipeline and its transformers have no way to do."""
    if job.lora and "load_lora_weights" not in dir(diffusers_class(job.example.pipeline)):
        raise ValueError(f"--lora-path: a {job.example.pipeline} cannot load LoRA weights; leave it out.")
    for part in job.parts:
        diffusers_class(part.class_name)
    if job.options.compile:
        for facts in job.facts.transformers.values():
            if not diffusers_class(facts.class_name)._repeated_blocks:
                raise ValueError(
                    f"--compile: diffusers does not say which blocks {facts.class_name} repeats; leave it out."
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
            raise ValueError(f"--cache: {error}") from error
