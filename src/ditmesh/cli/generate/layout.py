"""The layout that the flags of `ditmesh generate`, the file by --config and the number of ranks make together."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ditmesh import ParallelismConfig
from ditmesh.cli.generate.options import Options
from ditmesh.config import WORDS
from ditmesh.job.call import given
from ditmesh.job.example import Example
from ditmesh.job.facts import PipelineFacts
from ditmesh.runtime.world import World

TEXT_ENCODERS = ("vision_language_encoder",)  # beside text_encoder, text_encoder_2 ...
CONTROL = "controlnet"


def with_file(options: Options, file: Mapping[str, Any], world: World) -> tuple[ParallelismConfig, str | None]:
    """The layout and the attention kernel, of the flags or of the file that --config names.

    Raises:
        ValueError: flags and file contradict each other, or the ranks do not fill the layout.
    """
    own: ParallelismConfig | None = file.get("parallelism_config")
    kernel = file.get("attention_backend") or (own and own.attention_backend)
    for flag, asked, theirs in (("--parallel", options.parallel, own), ("--attn", options.attn, kernel)):
        if asked is not None and theirs is not None:
            raise ValueError(f"{flag} {asked}, but --config {options.config_path} says {theirs}; use one of them.")
    layout = choose_layout(options.parallel if own is None else str(own), options.nproc, world)
    asked = given(
        num_pipeline_patch=options.num_pipeline_patch,
        warmup_steps=options.pipeline_warmup_steps,
        shard_weights=options.shard_weights or None,
    )
    layout = replace(layout if own is None else own, **asked)
    if layout.dp_size > 1:
        raise ValueError(
            f"dp_size={layout.dp_size} shares out prompts, and this draws one result at a time; use `ditmesh t2i` for "
            f"many, `ditmesh serve --replicas {layout.dp_size}`, or another axis."
        )
    return layout, options.attn or kernel


def shared_parts(
    options: Options, layout: ParallelismConfig, example: Example, facts: PipelineFacts
) -> tuple[str, ...]:
    """The names of the components that --parallel-text, --parallel-vae and --parallel-controlnet share out.

    Raises:
        ValueError: the pipeline has no such component, or there are no ranks to share it.
    """
    components = [*facts.components, *(["controlnet"] if example.controlnet else [])]
    texts = [name for name in components if name.startswith("text_encoder") or name in TEXT_ENCODERS]
    shared, file = list(layout.extra_parallel_modules), f"--config {options.config_path}"
    if shared and layout.world_size == 1:
        raise ValueError(
            f"{file}: extra_parallel_modules are shared over the ranks of a layout, and this is one process; "
            f"give parallelism_config a size, such as ulysses_size: 2."
        )
    if unknown := [name for name in shared if name not in components]:
        raise ValueError(
            f"{file}: a {example.pipeline} has no {unknown[0]!r} among its components; use of {', '.join(components)}."
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
    ranks = world.ranks(nproc, "--nproc")
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
        told = f"torchrun started {ranks}" if world.launched else f"--nproc says {ranks}"
        cure = f"--nproc_per_node={layout.world_size}" if world.launched else "leave --nproc out"
        raise ValueError(
            f"--parallel {layout} is for {layout.world_size} ranks, but {told}; "
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
