"""Jobs of tiny pipelines."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ditmesh import ParallelismConfig
from ditmesh.job.description import Job
from ditmesh.job.example import Example
from ditmesh.job.facts import read_pipeline
from tests.tiny import call_kwargs, tiny_path


def job(name: str, layout: str, folder: Path, extras: tuple[str, ...] = (), **options: Any) -> Job:
    """One that draws a tiny pipeline's short call."""
    path, call = str(tiny_path(name, folder)), call_kwargs(name)
    facts = read_pipeline(path)
    config = replace(ParallelismConfig.parse(layout), extra_parallel_modules=extras, **options)
    example = Example(name, facts.class_name, path, "", call.get("num_inference_steps"), dtype="float32")
    return Job(example, path, facts, config, call, dtype="float32")
