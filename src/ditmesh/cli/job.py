"""Turn flags into a checked job, before anything is loaded or launched."""

import ast
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ditmesh import ParallelismConfig
from ditmesh.cli.examples import Example, find_example, for_pipeline
from ditmesh.cli.options import WORDS, Options
from ditmesh.cli.pipeline_facts import PipelineFacts, read_pipeline
from ditmesh.planner.checks import check_layout

OURS = ("generator", "output_type", "return_dict")  # arguments of the call that `generate` sets itself


@dataclass(frozen=True)
class World:
    """Which rank this process is; a process that nobody launched is rank 0 of 1.

    Attributes:
        ranks_here: how many of the ranks run on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    ranks_here: int = 1
    launched: bool = False

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> "World":
        """Read what torchrun sets."""
        if "RANK" not in environment or "WORLD_SIZE" not in environment:
            return cls()
        rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        local_rank = int(environment.get("LOCAL_RANK", rank))
        return cls(rank, size, local_rank, int(environment.get("LOCAL_WORLD_SIZE", size)), launched=True)


@dataclass(frozen=True)
class Job:
    """All that a run needs; every rank makes the same one from the same command line.

    Attributes:
        model: a folder or hub id, and `facts` what its JSON files say.
        call: arguments of the pipeline's call, but for the generator and the kind of output.
        asked: those of them that the user gave.
        save_path: None for a name made of example, size and layout.
    """

    example: Example
    model: str
    facts: PipelineFacts
    layout: ParallelismConfig
    attn: str | None
    call: Mapping[str, Any]
    asked: frozenset[str]
    seed: int
    generator_device: str
    vae_tiling: bool
    vae_slicing: bool
    warmup: int
    warmup_steps: int
    repeat: int
    fps: int
    save_path: Path | None
    track_memory: bool
    verify: bool


def prepare(options: Options, world: World) -> Job:
    """Check everything that can be checked without torch and without weights.

    Raises:
        ValueError: something asked for cannot be done; the message says what, why, and what would work.
    """
    named = find_example(options.example)
    layout = choose_layout(options.parallel, options.nproc, world)
    model = options.model_path or os.environ.get(named.folder_variable or "") or named.model
    facts = read_pipeline(model)
    example = for_pipeline(named, facts.class_name)
    if layout.world_size > 1:
        for transformer in facts.transformers.values():
            check_layout(layout, transformer.class_name, transformer.config, layout.world_size)
    asked = asked_arguments(options)
    call = {**default_arguments(example), **asked}
    warmup = example.warmup if options.warmup is None else options.warmup
    job = Job(
        example=example,
        model=model,
        facts=facts,
        layout=layout,
        attn=options.attn,
        call=call,
        asked=frozenset(asked),
        seed=options.seed or 0,
        generator_device=options.generator_device or "cpu",
        vae_tiling=options.vae_tiling,
        vae_slicing=options.vae_slicing,
        warmup=warmup,
        warmup_steps=options.warmup_steps or call["num_inference_steps"],
        repeat=options.repeat,
        fps=options.fps or 8,
        save_path=options.save_path,
        track_memory=options.track_memory,
        verify=options.verify,
    )
    refuse_idle_flags(options, job)
    check_writable(options.save_path or Path(f"{example.name}{example.suffixes[0]}"), example)
    return job


def choose_layout(parallel: str | None, nproc: int | None, world: World) -> ParallelismConfig:
    """The layout for this command, whose product is the number of ranks.

    Raises:
        ValueError: the ranks there are, or are asked for, do not fill the layout.
    """
    ranks = world.size if world.launched else nproc
    if world.launched and nproc not in (None, world.size):
        raise ValueError(f"--nproc {nproc}, but torchrun started {world.size} ranks; leave --nproc out under torchrun.")
    if parallel is None:
        if ranks is not None and ranks > 1:
            raise ValueError(
                f"{ranks} ranks, but no --parallel says how to share the work; "
                f"add --parallel ulysses{ranks}, ring{ranks} or tp{ranks}, or leave it at one process."
            )
        return ParallelismConfig()
    if parallel in WORDS:
        return ParallelismConfig.parse(parallel, ranks if ranks is not None else visible_accelerators(parallel))
    layout = ParallelismConfig.parse(parallel)
    if ranks is not None and layout.world_size != ranks:
        given = f"torchrun started {ranks}" if world.launched else f"--nproc says {ranks}"
        cure = f"--nproc_per_node={layout.world_size}" if world.launched else "leave --nproc out"
        raise ValueError(
            f"--parallel {layout} is for {layout.world_size} ranks, but {given}; "
            f"{cure}, or name a layout of {ranks}, such as ulysses{ranks}."
        )
    return layout


def visible_accelerators(word: str) -> int:
    """How many devices a word in --parallel can share out, when nobody said how many ranks to start."""
    import torch

    count = torch.accelerator.device_count()
    if count == 0:
        raise ValueError(
            f"--parallel {word} shares out all ranks, and without an accelerator their number is open; "
            f"add --nproc 2, or name the degrees, as in --parallel ulysses2."
        )
    return count


def default_arguments(example: Example) -> dict[str, Any]:
    """The arguments of the pipeline's call where the user says nothing, by the pipeline's names."""
    call = {
        "prompt": example.prompt,
        "height": example.height,
        "width": example.width,
        "num_inference_steps": example.steps,
        **example.call,
    }
    return call | ({"num_frames": example.frames} if example.frames else {})


def asked_arguments(options: Options) -> dict[str, Any]:
    """The arguments of the pipeline's call that the user gave, by the pipeline's names."""
    given = {
        "prompt": options.prompt,
        "negative_prompt": options.negative_prompt,
        "num_inference_steps": options.steps,
        "height": options.height,
        "width": options.width,
        "num_frames": options.num_frames,
    }
    asked = {name: value for name, value in given.items() if value is not None}
    return asked | extra_arguments(options.extra_input_kwargs)


def extra_arguments(text: str | None) -> dict[str, Any]:
    """Read --extra-input-kwargs, a Python dict of literals."""
    if text is None:
        return {}
    try:
        extra = ast.literal_eval(text)
    except (ValueError, SyntaxError) as error:
        raise ValueError(
            f"--extra-input-kwargs {text!r} is no Python dict; write it like \"{{'sigmas': None}}\"."
        ) from error
    if not isinstance(extra, dict) or not all(isinstance(name, str) for name in extra):
        raise ValueError(f"--extra-input-kwargs {text!r} is no dict with names as keys, like \"{{'sigmas': None}}\".")
    for name in OURS:
        if name in extra:
            raise ValueError(f"--extra-input-kwargs: {name} is set by generate itself; leave it out.")
    return extra


def refuse_idle_flags(options: Options, job: Job) -> None:
    """Refuse what would have no effect here: nothing asked for is ignored."""
    if not job.example.frames:
        for flag, value in (("--num-frames", options.num_frames), ("--fps", options.fps)):
            if value is not None:
                raise ValueError(f"{flag} is for videos, and a {job.facts.class_name} makes pictures; leave it out.")
    if options.warmup_steps is not None and job.warmup == 0:
        raise ValueError("--warmup-steps is for untimed runs, and there are none; add --warmup 1.")
    if job.verify and job.layout.world_size == 1:
        raise ValueError(
            "--verify compares a layout with one process, and this is one process; add --parallel ulysses2."
        )
    if job.generator_device not in ("cpu", "cuda"):
        raise ValueError(f"--generator-device {job.generator_device!r} is unknown; use cpu or cuda.")


def check_writable(path: Path, example: Example) -> None:
    """Refuse a file name that the result cannot be saved under."""
    if path.suffix.lower() not in example.suffixes:
        made = "a video" if example.frames else "a picture"
        raise ValueError(f"--save-path {path}: the result is {made}; end the name in {' or '.join(example.suffixes)}.")
    if path.is_dir():
        raise ValueError(
            f"--save-path {path} is a folder; add a file name, as in {path / example.name}{example.suffixes[0]}."
        )
    there = path if path.exists() else next(parent for parent in path.absolute().parents if parent.exists())
    if there != path and not there.is_dir():
        raise ValueError(f"--save-path {path}: {there} is a file, not a folder; choose another place.")
    if not os.access(there, os.W_OK):
        raise ValueError(f"--save-path {path}: no permission to write {there}; choose another place.")
