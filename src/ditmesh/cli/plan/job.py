"""Turn the flags of `ditmesh plan` into a job and a question, before anything is counted."""

import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ditmesh.cli.examples import EXAMPLES, example_of, find_example, for_pipeline
from ditmesh.cli.plan.options import PlanOptions
from ditmesh.config import ParallelismConfig
from ditmesh.job.caching import choose_cache
from ditmesh.job.call import default_arguments, given
from ditmesh.job.checks import check_place
from ditmesh.job.description import Job
from ditmesh.job.example import Example
from ditmesh.job.facts import read_pipeline
from ditmesh.job.numbers import check_numbers
from ditmesh.job.quantization import find_quantization
from ditmesh.planner.checkpoints import configs_of
from ditmesh.planner.hardware import machine, read_table
from ditmesh.planner.layouts import text_encoders
from ditmesh.planner.search import Question

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def describe_plan(options: PlanOptions) -> tuple[Job, Question]:
    """Check everything that can be checked without torch and without weights.

    Raises:
        ValueError: something asked for cannot be planned; the message says what, why, and what would work.
    """
    table = read_table(*([options.hardware] if options.hardware else []))
    device, devices = machine(options.gpus, table, options.link)
    example, model = find_model(options.model)
    model = configs_of(model)
    facts = read_pipeline(model, flag="MODEL")
    example = for_pipeline(example, facts.class_name)
    call = plan_call(options, example)
    dtype = find_dtype(options.dtype) or ("float32" if device.is_cpu else example.dtype)
    job = Job(
        example=example,
        model=model,
        facts=facts,
        layout=ParallelismConfig(),
        call=call,
        quantized=find_quantization(options.quantize, options.quantized_text, facts.components, "--quantize"),
        cache=choose_cache(example, len(facts.transformers), call.get("num_inference_steps"), flag="--cache")
        if options.cache
        else None,
        dtype=dtype,
    )
    check_numbers(call, facts.smallest_side)
    check_flags(options, job)
    hits = 0.0 if options.cache_hits is None else options.cache_hits
    return job, Question(
        device,
        devices,
        text=options.parallel_text,
        vae=options.parallel_vae,
        shard=options.shard_weights,
        throughput=options.throughput,
        hits=hits,
        seconds=options.max,
    )


def find_model(name: str) -> tuple[Example, str]:
    """The example whose call holds, and where the model is: a folder, or a hub id."""
    folder = Path(name).expanduser()
    by_model = {example.model: example for example in reversed(EXAMPLES.values())}
    if name not in EXAMPLES and (folder.is_dir() or "/" in name):
        known = by_model.get(name)
        if known is not None:
            return known, name
        facts = read_pipeline(configs_of(name), flag="MODEL")
        found = example_of(facts.class_name, name)
        if found is None:
            known_classes = ", ".join(dict.fromkeys(example.pipeline for example in EXAMPLES.values()))
            raise ValueError(
                f"{name} is a {facts.class_name}, and no example says how that is called; the planner knows the calls "
                f"of {known_classes}."
            )
        return replace(found, name=folder.name, model=name), name
    example = find_example(name)
    return example, os.environ.get(example.folder_variable or "") or example.model


def plan_call(options: PlanOptions, example: Example) -> dict[str, Any]:
    """The arguments of the pipeline's call.

    Raises:
        ValueError: a size that is none, or a length of what has none.
    """
    asked = given(num_inference_steps=options.steps, num_frames=options.frames)
    if options.frames is not None and not example.frames:
        raise ValueError(f"--frames is for videos, and a {example.pipeline} makes pictures; leave it out.")
    if options.steps is not None and example.steps is None:
        raise ValueError(f"--steps: a {example.pipeline} has no single number of steps; leave it out.")
    if options.size is not None:
        height, _, width = options.size.lower().partition("x")
        if not (height.isascii() and height.isdigit() and width.isascii() and width.isdigit()):
            raise ValueError(f"--size {options.size}: write height and width in pixels, as in 1024x1024.")
        asked |= {"height": int(height), "width": int(width)}
    if options.batch > 1:
        asked["num_videos_per_prompt" if example.frames else "num_images_per_prompt"] = options.batch
    return {**default_arguments(example), **asked}


def find_dtype(name: str | None) -> str | None:
    if name is None:
        return None
    if name not in (*DTYPES, *DTYPES.values()):
        raise ValueError(f"--dtype {name} is none of {', '.join(DTYPES)}.")
    return DTYPES.get(name, name)


def check_flags(options: PlanOptions, job: Job) -> None:
    """Refuse what would have no effect."""
    if options.cache_hits is not None:
        if not options.cache:
            raise ValueError("--cache-hits is for a cache, and nothing is cached; add --cache.")
        if not 0 <= options.cache_hits < 1:
            raise ValueError(f"--cache-hits {options.cache_hits:g} is no part of the steps; write it like 0.5.")
    if options.max is not None and not options.max > 0:
        raise ValueError(f"--max {options.max:g} is no time; write seconds above 0.")
    title = job.example.pipeline
    if options.parallel_text and not text_encoders(job):
        raise ValueError(f"--parallel-text: a {title} has no text encoder; leave it out.")
    if options.parallel_vae and "vae" not in job.facts.components:
        raise ValueError(f"--parallel-vae: a {title} has no VAE; leave it out.")
    if options.plot is not None:
        if options.plot.suffix != ".png":
            raise ValueError(f"--plot {options.plot}: the plot is a picture; end the name in .png.")
        if find_spec("matplotlib") is None:
            raise ValueError("--plot draws with matplotlib, which is not installed; run: pip install 'ditmesh[bench]'")
        check_place("--plot", options.plot, options.plot.parent)
