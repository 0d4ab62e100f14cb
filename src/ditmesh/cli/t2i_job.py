"""Turn the flags of `ditmesh t2i` into a checked job, before torch is imported and before any weight is read."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ditmesh import ParallelismConfig
from ditmesh.checks import check_layout
from ditmesh.cli.call import default_arguments
from ditmesh.cli.degrees import DEBUG, PREFIX, choose_degrees, is_on
from ditmesh.cli.examples import EXAMPLES
from ditmesh.cli.examples.example import Example
from ditmesh.cli.examples.pictures import PICTURES
from ditmesh.cli.job import World
from ditmesh.cli.optimizations import Optimizations, choose_optimizations
from ditmesh.cli.pipeline_facts import PipelineFacts, read_pipeline
from ditmesh.cli.t2i_options import BatchOptions
from ditmesh.config import suggest

BACKENDS = ("xdit", "diffusers")
DTYPES = ("bfloat16", "float16", "float32")


@dataclass(frozen=True)
class Meeting:
    """How several machines become one world: the same command on each, with its own ``node``."""

    nodes: int = 1
    node: int = 0
    host: str = ""
    port: int = 29500


@dataclass(frozen=True)
class BatchJob:
    """All that a run needs; every rank makes the same one from the same command line.

    Attributes:
        example: whose prompt, size and steps hold where nothing else is said.
        model: a folder or hub id, ``facts`` what its JSON files say.
        call: arguments of the pipeline's call, where a row says nothing.
        prompt: the one prompt, if there is no file.
        notes: what was decided in the user's place.
        batch_size: of one replica.
    """

    options: BatchOptions
    example: Example
    model: str
    facts: PipelineFacts
    layout: ParallelismConfig
    optimizations: Optimizations
    call: Mapping[str, Any]
    asked: frozenset[str]
    prompt: str | None
    seed: int
    batch_size: int
    notes: tuple[str, ...]
    meeting: Meeting
    debug: bool

    @property
    def ranks_here(self) -> int:
        """How many ranks each machine runs."""
        return self.layout.world_size // self.meeting.nodes


def prepare(options: BatchOptions, world: World, environment: Mapping[str, str] = os.environ) -> BatchJob:
    """Check everything that can be checked without torch and without weights.

    Raises:
        ValueError: something asked for cannot be done; the message says what, why, and what would work.
    """
    notes: list[str] = []
    debug = is_on(environment, DEBUG)
    layout = choose_layout(options, world, environment)
    meeting = choose_meeting(options, layout)
    named, model = choose_model(options.model_name, environment)
    facts = read_pipeline(model, flag="--model_name")
    example = choose_example(named, model, facts)
    for part in facts.transformers.values():
        if layout.world_size > layout.dp_size:
            check_layout(layout, part.class_name, part.config, layout.world_size)
    asked = asked_arguments(options)
    prompt = choose_prompt(options, example, notes)
    if options.torch_dtype not in (None, *DTYPES):
        raise ValueError(f"--torch_dtype {options.torch_dtype} is none of {', '.join(DTYPES)}.")
    check_folder(options.output_dir)
    if options.log_dir is not None:
        check_folder(options.log_dir, "--log_dir")
    if layout.dp_size > 1 and options.data_parallel_degree is None and options.num_gpus is not None:
        notes.append(f"{options.num_gpus} ranks make the layout {layout}")
    if options.backend == "diffusers" and (unused := [name for name in environment if name.startswith(PREFIX)]):
        notes.append(f"--backend diffusers splits no picture, so that {', '.join(unused)} is not used")
    call = {name: value for name, value in default_arguments(example).items() if name != "prompt"} | asked
    return BatchJob(
        options=options,
        example=example,
        model=model,
        facts=facts,
        layout=layout,
        optimizations=choose_optimizations(options),
        call=call,
        asked=frozenset(asked),
        prompt=prompt,
        seed=example.seed if options.seed is None else options.seed,
        batch_size=max(1, options.batch_size // layout.dp_size),
        notes=tuple(notes),
        meeting=meeting,
        debug=debug,
    )


def choose_layout(options: BatchOptions, world: World, environment: Mapping[str, str]) -> ParallelismConfig:
    """The degrees, as many as there are ranks.

    Raises:
        ValueError: they contradict each other, or the number of ranks.
    """
    if options.backend not in BACKENDS:
        raise ValueError(f"--backend {options.backend}: {suggest(options.backend, BACKENDS)}")
    flags = {
        "dp_size": options.data_parallel_degree,
        "cfg_size": None if options.use_cfg_parallel is None else 1 + options.use_cfg_parallel,
        "pp_size": options.pipefusion_degree,
        "ring_size": options.ring_degree,
        "ulysses_size": options.ulysses_degree,
        "tp_size": options.tensor_parallel_degree,
    }
    given = {"num_pipeline_patch": options.num_pipeline_patch, "warmup_steps": options.warmup_steps}
    patches = {name: value for name, value in given.items() if value is not None}
    if world.launched and options.num_gpus not in (None, world.size):
        raise ValueError(f"--num_gpus {options.num_gpus}, but torchrun started {world.size} ranks; leave it out.")
    ranks = world.size if world.launched else options.num_gpus
    if options.backend == "diffusers":
        if any(degree not in (None, 1) for size, degree in flags.items() if size != "dp_size"):
            raise ValueError("--backend diffusers splits no picture, and a degree asks to; use --backend xdit.")
        return choose_degrees({"dp_size": flags["dp_size"]}, {}, ranks, patches)
    return choose_degrees(flags, environment, ranks, patches)


def choose_meeting(options: BatchOptions, layout: ParallelismConfig) -> Meeting:
    """Where the machines meet.

    Raises:
        ValueError: it does not say enough, or too much.
    """
    if options.nnodes == 1:
        for flag, value in (("--node_rank", options.node_rank), ("--rdzv_endpoint", options.rdzv_endpoint)):
            if value is not None:
                raise ValueError(f"{flag} is for several machines; add --nnodes, or leave it out.")
        return Meeting()
    if options.node_rank is None or options.rdzv_endpoint is None:
        raise ValueError("--nnodes needs --node_rank, from 0, and --rdzv_endpoint, the address and port of machine 0.")
    if options.node_rank >= options.nnodes:
        raise ValueError(f"--node_rank {options.node_rank}: machines are numbered from 0 to {options.nnodes - 1}.")
    if layout.world_size % options.nnodes:
        raise ValueError(
            f"{layout.world_size} ranks do not divide among {options.nnodes} machines; --num_gpus counts all of them."
        )
    host, _, port = options.rdzv_endpoint.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"--rdzv_endpoint {options.rdzv_endpoint} is no HOST:PORT; write it like node0:29500.")
    return Meeting(options.nnodes, options.node_rank, host, int(port))


def choose_model(name: str, environment: Mapping[str, str]) -> tuple[Example | None, str]:
    """The example that knows the model by this name, and where the model is.

    A hub id, its part behind the organisation, and an example's name all name an example's model; a variable such as
    FLUX_DIR then says where a copy of it is.
    """
    if Path(name).expanduser().is_dir():
        return None, name
    for example in sorted(PICTURES, key=lambda example: example.name != name):
        if name in (example.name, example.model, example.model.rpartition("/")[2]):
            return example, environment.get(example.folder_variable or "") or example.model
    if "/" not in name:
        short = [example.model.rpartition("/")[2] for example in PICTURES if example.folder_variable]
        raise ValueError(
            f"--model_name {name}: there is no such folder or short name; {suggest(name, dict.fromkeys(short))} "
            f"A model of the hub has an organisation in its name, as in black-forest-labs/FLUX.1-dev."
        )
    return None, name


def choose_example(named: Example | None, model: str, facts: PipelineFacts) -> Example:
    """The example whose defaults hold.

    Raises:
        ValueError: the pipeline makes no picture from a prompt alone.
    """
    if named is not None and facts.class_name in (named.pipeline, *named.saved_as):
        found = named
    else:
        of_class = [example for example in EXAMPLES.values() if example.pipeline == facts.class_name]
        own = [example for example in of_class if Path(example.model) == Path(model).absolute()]
        others = [example for example in of_class if example.folder_variable is not None]
        if not of_class:
            return Example(Path(model).name, facts.class_name, model, "", steps=None, height=None, width=None)
        found = (own or others or of_class)[0]
    if found.input:
        raise ValueError(f"{model} is a {facts.class_name}, which needs an image; use `ditmesh generate {found.name}`.")
    if found.frames:
        raise ValueError(f"{model} is a {facts.class_name}, which makes videos; use `ditmesh generate {found.name}`.")
    return replace(found, model=model)


def asked_arguments(options: BatchOptions) -> dict[str, Any]:
    """The arguments of the pipeline's call that the user gave."""
    given = {
        "negative_prompt": options.negative_prompt,
        "height": options.height,
        "width": options.width,
        "num_inference_steps": options.num_inference_steps,
        "guidance_scale": options.guidance_scale,
        "true_cfg_scale": options.true_cfg_scale,
    }
    return {name: value for name, value in given.items() if value is not None}


def choose_prompt(options: BatchOptions, example: Example, notes: list[str]) -> str | None:
    """The one prompt; None if there is a file of them."""
    if options.prompts_file is not None:
        if options.prompt is not None:
            raise ValueError("--prompt gives one and --prompts_file many; use one of them.")
        return None
    if options.prompt is not None:
        return options.prompt
    if not example.prompt:
        raise ValueError("there is nothing to draw; add --prompt or --prompts_file.")
    notes.append(f"neither --prompt nor --prompts_file is given, so one picture is drawn of {example.prompt!r}")
    return example.prompt


def check_folder(folder: Path, flag: str = "--output_dir") -> None:
    """Refuse a folder that nothing can be written to."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise ValueError(f"{flag} {folder}: {there} is a file, not a folder; choose another place.")
    if not os.access(there, os.W_OK):
        raise ValueError(f"{flag} {folder}: no permission to write {there}; choose another place.")
