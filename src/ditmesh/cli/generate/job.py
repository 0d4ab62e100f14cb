"""Turn the flags of `ditmesh generate` into a checked job, before anything is loaded or launched."""

import ast
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ditmesh.cli.examples import find_example, for_pipeline
from ditmesh.cli.flags import given_flags
from ditmesh.cli.generate.cache import asked_cache, read_file
from ditmesh.cli.generate.layout import shared_parts, with_file
from ditmesh.cli.generate.options import Options
from ditmesh.config import suggest
from ditmesh.job.call import OURS, asked_arguments, default_arguments, given
from ditmesh.job.checks import check_facts, check_place
from ditmesh.job.description import Job, Tuning
from ditmesh.job.example import Example
from ditmesh.job.facts import read_pipeline
from ditmesh.job.images import find_inputs
from ditmesh.job.numbers import check_numbers
from ditmesh.job.quantization import find_quantization
from ditmesh.job.weights import find_controlnet, find_lora, find_transformer
from ditmesh.runtime.world import World

GROUPS = ("block_level", "leaf_level")


def describe_job(options: Options, world: World) -> Job:
    """Check everything that can be checked without torch and without weights.

    Raises:
        ValueError: something asked for cannot be done; the message says what, why, and what would work.
    """
    job = describe_model(options, world)
    example = job.example
    check_numbers(given(warmup_seed=options.warmup_seed))
    refuse_idle_flags(options, job)
    check_writable(options.save_path or Path(f"{example.name}{example.suffixes[0]}"), example)
    images, mask = options.image_path or [], options.mask_image_path
    return replace(job, inputs=find_inputs(example, images, mask, options.input_height, options.input_width))


def describe_model(options: Options, world: World) -> Job:
    """The same, but for what one result is drawn from and saved as."""
    named = find_example(options.example)
    file = read_file(options.config_path, world.size if world.launched else options.nproc or 1)
    layout, kernel = with_file(options, file, world)
    model = options.model_path or os.environ.get(named.folder_variable or "") or named.model
    transformer = find_transformer(options.transformer_path)
    facts = read_pipeline(model, transformer[1] if transformer else None)
    example = for_pipeline(named, facts.class_name)
    call, asked = call_arguments(options, example)
    job = Job(
        example=example,
        model=model,
        facts=facts,
        layout=replace(layout, extra_parallel_modules=shared_parts(options, layout, example, facts)),
        call=call,
        asked=asked,
        seed=example.seed if options.seed is None else options.seed,
        cache=asked_cache(options, file, example, len(facts.transformers), call.get("num_inference_steps")),
        kernel=kernel,
        quantized=find_quantization(options.quantize, options.quantized_text, facts.components, "--quantize"),
        allow_pickle=options.allow_pickle,
        tuning=Tuning(options.compile, options.vae_slicing, options.vae_tiling, asked_offload(options)),
        noise_device=options.generator_device,
    )
    check_facts(job)
    controlnet = find_controlnet(options.controlnet_path, example, facts)
    steps, fuse = options.steps, not options.disable_fuse_lora
    return replace(
        job,
        parts=tuple(part for part in (transformer and transformer[0], controlnet) if part),
        lora=find_lora(example, options.lora_path, options.lora_weight_name, fuse, steps),
    )


def asked_offload(options: Options) -> str | None:
    """What waits on the CPU.

    Raises:
        ValueError: two answers, or a kind of group that there is not.
    """
    given = given_flags(options, "cpu_offload", "group_offload", "sequential_offload")
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} offload the same weights; name one of them.")
    if options.group_offload not in (None, *GROUPS):
        raise ValueError(
            f"--group-offload {options.group_offload}: there is no such kind of group; "
            f"{suggest(options.group_offload, GROUPS)}"
        )
    by_switch = "model" if options.cpu_offload else "sequential" if options.sequential_offload else None
    return options.group_offload or by_switch


def call_arguments(options: Options, example: Example) -> tuple[dict[str, Any], frozenset[str]]:
    """The arguments of the call by the pipeline's names, but for images; and those of them that the user gave.

    Raises:
        ValueError: something asked for contradicts something else.
    """
    asked = asked_arguments(options) | given(num_inference_steps=options.steps)
    asked |= extra_arguments(options.extra_input_kwargs)
    call = {**default_arguments(example), **asked}
    if example.rate_argument and options.fps:
        call[example.rate_argument] = options.fps
    if options.skip_negative_prompt:
        if options.negative_prompt is not None:
            raise ValueError("--negative-prompt gives one and --skip-neg leaves it out; use one of them.")
        if call.pop("negative_prompt", None) is None:
            raise ValueError(f"--skip-neg: {example.name} has no negative prompt to leave out.")
    return call, frozenset(asked)


def extra_arguments(text: str | None) -> dict[str, Any]:
    """Read --extra-input-kwargs, a Python dict of literals."""
    if text is None:
        return {}
    try:
        extra = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(
            f"--extra-input-kwargs {text!r:.200} is no Python dict; write it like \"{{'sigmas': None}}\"."
        ) from error
    if not isinstance(extra, dict) or not all(isinstance(name, str) for name in extra):
        raise ValueError(f"--extra-input-kwargs {text!r} is no dict with names as keys, like \"{{'sigmas': None}}\".")
    for name in OURS:
        if name in extra:
            raise ValueError(f"--extra-input-kwargs: {name} is set by generate itself; leave it out.")
    return extra


def warmups(options: Options, example: Example) -> int:
    """How many untimed runs come first."""
    return example.warmup if options.warmup is None else options.warmup


def warmup_call(options: Options, job: Job) -> tuple[Mapping[str, Any], int]:
    """The call of an untimed run, which the user may have changed, and its seed."""
    changed = given(num_inference_steps=options.warmup_steps, prompt=options.warmup_prompt)
    return {**job.call, **changed}, job.seed if options.warmup_seed is None else options.warmup_seed


def refuse_idle_flags(options: Options, job: Job) -> None:
    """Refuse what would have no effect here: nothing asked for is ignored."""
    example = job.example
    for flag in [] if example.frames else given_flags(options, "num_frames", "fps"):
        raise ValueError(f"{flag} is for videos, and a {example.pipeline} makes pictures; leave it out.")
    for flag in given_flags(options, "warmup_steps", "warmup_prompt", "warmup_seed"):
        if warmups(options, example) == 0:
            raise ValueError(f"{flag} is for untimed runs, and there are none; add --warmup 1.")
    if options.warmup_steps is not None and "num_inference_steps" not in job.call:
        raise ValueError(f"--warmup-steps: a {example.pipeline} has no single number of steps; leave it out.")
    if options.verify and job.layout.world_size == 1 and job.cache is None and job.quantized is None:
        raise ValueError(
            "--verify compares a layout or a cache with one process, and this is one process; add --parallel ulysses2."
        )


def check_writable(path: Path, example: Example) -> None:
    """Refuse a file name that the result cannot be saved under."""
    if path.suffix.lower() not in example.suffixes:
        made = "a video" if example.frames else "a picture"
        raise ValueError(f"--save-path {path}: the result is {made}; end the name in {' or '.join(example.suffixes)}.")
    if path.is_dir():
        raise ValueError(
            f"--save-path {path} is a folder; add a file name, as in {path / example.name}{example.suffixes[0]}."
        )
    check_place("--save-path", path, path.parent)
