"""Turn flags into a checked job, before anything is loaded or launched."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ditmesh import ParallelismConfig
from ditmesh.checks import check_layout
from ditmesh.cli.caching import Cached, choose_cache, read_file
from ditmesh.cli.call import call_arguments
from ditmesh.cli.examples import find_example, for_pipeline
from ditmesh.cli.examples.example import Example
from ditmesh.cli.images import Inputs, find_inputs
from ditmesh.cli.options import WORDS, Options
from ditmesh.cli.pipeline_facts import PipelineFacts, read_pipeline
from ditmesh.cli.weights import LoraWeights, Part, find_controlnet, find_lora, find_transformer

TEXT_ENCODERS = ("vision_language_encoder",)  # beside text_encoder, text_encoder_2 ...
CONTROL = "controlnet"
COUNTS = ("WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")  # beside RANK, what torchrun sets as numbers


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
        """Read what torchrun sets.

        Raises:
            ValueError: it is not what torchrun sets.
        """
        if "RANK" not in environment:
            return cls()
        check_launched(environment, ("WORLD_SIZE",))
        told = {name: environment[name] for name in ("RANK", *COUNTS) if name in environment}
        for name, value in told.items():
            if not value.isascii() or not value.isdigit():
                raise ValueError(f"{name}={value} is no number of ranks; unset RANK, or start by torchrun.")
        rank, size = int(told["RANK"]), int(told["WORLD_SIZE"])
        local_rank, here = int(told.get("LOCAL_RANK", rank)), int(told.get("LOCAL_WORLD_SIZE", size))
        if not (rank < size and local_rank < here <= size):
            why = ", ".join(f"{name}={value}" for name, value in told.items())
            raise ValueError(f"{why} are of no rank that there can be; unset RANK, or start by torchrun.")
        return cls(rank, size, local_rank, here, launched=True)


def check_launched(
    environment: Mapping[str, str], names: Sequence[str] = ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
) -> None:
    """Refuse a RANK that is not of torchrun, which sets the others too.

    Raises:
        ValueError: one of the others is missing.
    """
    for name in names:
        if "RANK" in environment and not environment.get(name):
            raise ValueError(f"RANK is set, as by torchrun, but {name} is not; unset RANK, or start by torchrun.")


@dataclass(frozen=True)
class Job:
    """All that a run needs; every rank makes the same one from the same command line.

    Attributes:
        options: the flags as given, for what needs no working out.
        model: a folder or hub id, and `facts` what its JSON files say.
        parts: components that are loaded from elsewhere.
        cache: what is cached and how, or None.
        call: arguments of the pipeline's call, but for the generator and the kind of output.
        asked: those of them that the user gave.
        inputs: the images that go in; `call` gets them when they are opened.
        warmups: the number of untimed runs.
    """

    options: Options
    example: Example
    model: str
    facts: PipelineFacts
    parts: tuple[Part, ...]
    lora: LoraWeights | None
    layout: ParallelismConfig
    cache: Cached | None
    call: Mapping[str, Any]
    asked: frozenset[str]
    inputs: Inputs
    seed: int
    warmups: int
    fps: int


def prepare(options: Options, world: World) -> Job:
    """Check everything that can be checked without torch and without weights.

    Raises:
        ValueError: something asked for cannot be done; the message says what, why, and what would work.
    """
    named = find_example(options.example)
    file = read_file(options.config_path, world.size if world.launched else options.nproc or 1)
    options, layout = with_file(options, file, world)
    if layout.dp_size > 1:
        raise ValueError(
            f"dp_size={layout.dp_size} shares out prompts, and generate draws one result; "
            f"use `ditmesh t2i` for many, or another axis."
        )
    model = options.model_path or os.environ.get(named.folder_variable or "") or named.model
    transformer = find_transformer(options.transformer_path)
    facts = read_pipeline(model, transformer[1] if transformer else None)
    example = for_pipeline(named, facts.class_name)
    if layout.world_size > 1:
        for part in facts.transformers.values():
            check_layout(layout, part.class_name, part.config, layout.world_size)
    call, asked = call_arguments(options, example)
    cache = choose_cache(options, file, example, len(facts.transformers), call.get("num_inference_steps"))
    refuse_idle_flags(options, example, call)
    if options.verify and layout.world_size == 1 and cache is None:
        raise ValueError(
            "--verify compares a layout or a cache with one process, and this is one process; add --parallel ulysses2."
        )
    check_writable(options.save_path or Path(f"{example.name}{example.suffixes[0]}"), example)
    shared = shared_parts(options, layout, example, facts)
    inputs = find_inputs(options, example)
    controlnet = find_controlnet(options, example, facts)
    return Job(
        options=options,
        example=example,
        model=model,
        facts=facts,
        parts=tuple(part for part in (transformer and transformer[0], controlnet) if part),
        lora=find_lora(options, example),
        layout=replace(layout, extra_parallel_modules=shared),
        cache=cache,
        call=call,
        asked=asked,
        inputs=inputs,
        seed=example.seed if options.seed is None else options.seed,
        warmups=example.warmup if options.warmup is None else options.warmup,
        fps=options.fps or example.fps,
    )


def with_file(options: Options, file: Mapping[str, Any], world: World) -> tuple[Options, ParallelismConfig]:
    """The flags with the kernel that --config names, and the layout of either.

    Raises:
        ValueError: flags and file contradict each other, or the ranks do not fill the layout.
    """
    own: ParallelismConfig | None = file.get("parallelism_config")
    kernel = file.get("attention_backend") or (own and own.attention_backend)
    for flag, given, theirs in (("--parallel", options.parallel, own), ("--attn", options.attn, kernel)):
        if given is not None and theirs is not None:
            raise ValueError(f"{flag} {given}, but --config {options.config_path} says {theirs}; use one of them.")
    layout = choose_layout(options.parallel if own is None else str(own), options.nproc, world)
    patches = {"num_pipeline_patch": options.num_pipeline_patch, "warmup_steps": options.pipeline_warmup_steps}
    given = {name: value for name, value in patches.items() if value is not None}
    return replace(options, attn=options.attn or kernel), replace(layout if own is None else own, **given)


def shared_parts(
    options: Options, layout: ParallelismConfig, example: Example, facts: PipelineFacts
) -> tuple[str, ...]:
    """The names of the components that --parallel-text, --parallel-vae and --parallel-controlnet share out.

    Raises:
        ValueError: the pipeline has no such component, or there are no ranks to share it.
    """
    components = [*facts.components, *(["controlnet"] if example.controlnet else [])]
    texts = [name for name in components if name.startswith("text_encoder") or name in TEXT_ENCODERS]
    shared: list[str] = list(layout.extra_parallel_modules)
    if shared and layout.world_size == 1:
        raise ValueError(
            f"--config {options.config_path}: extra_parallel_modules are shared over the ranks of a layout, and this "
            f"is one process; give parallelism_config a size, such as ulysses_size: 2."
        )
    for name in shared:
        if name not in components:
            raise ValueError(
                f"--config {options.config_path}: a {example.pipeline} has no {name!r} among its components; "
                f"use of {', '.join(components)}."
            )
    for flag, asked, what, names in (
        ("--parallel-text", options.parallel_text, "text encoder", texts),
        ("--parallel-vae", options.parallel_vae, "VAE", [name for name in components if name == "vae"]),
        ("--parallel-controlnet", options.parallel_controlnet, "ControlNet", [n for n in components if n == CONTROL]),
    ):
        if asked and layout.world_size == 1:
            raise ValueError(f"{flag} shares the {what} over the ranks of a layout; add --parallel, as in ulysses2.")
        if asked and not names:
            raise ValueError(f"{flag}: a {example.pipeline} has no {what}; leave it out.")
        shared += names if asked else []
    return tuple(dict.fromkeys(shared))


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


def refuse_idle_flags(options: Options, example: Example, call: Mapping[str, Any]) -> None:
    """Refuse what would have no effect here: nothing asked for is ignored."""
    if not example.frames:
        for flag, value in (("--num-frames", options.num_frames), ("--fps", options.fps)):
            if value is not None:
                raise ValueError(f"{flag} is for videos, and a {example.pipeline} makes pictures; leave it out.")
    warmups = example.warmup if options.warmup is None else options.warmup
    for flag, value in (
        ("--warmup-steps", options.warmup_steps),
        ("--warmup-prompt", options.warmup_prompt),
        ("--warmup-seed", options.warmup_seed),
    ):
        if value is not None and warmups == 0:
            raise ValueError(f"{flag} is for untimed runs, and there are none; add --warmup 1.")
    if options.warmup_steps is not None and "num_inference_steps" not in call:
        raise ValueError(f"--warmup-steps: a {example.pipeline} has no single number of steps; leave it out.")
    if options.generator_device not in ("cpu", "cuda"):
        raise ValueError(f"--generator-device {options.generator_device!r} is unknown; use cpu or cuda.")


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
