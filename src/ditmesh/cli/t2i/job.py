"""Turn the flags of `ditmesh t2i` into a checked job, before torch is imported and before any weight is read."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from ditmesh import ParallelismConfig
from ditmesh.checks import check_world
from ditmesh.cli.examples import PICTURES, example_of
from ditmesh.cli.flags import flag_of, given_flags
from ditmesh.cli.generate.job import extra_arguments
from ditmesh.cli.t2i.degrees import DEBUG, PREFIX, choose_degrees, is_on
from ditmesh.cli.t2i.optimizations import choose_optimizations
from ditmesh.cli.t2i.options import BatchOptions
from ditmesh.config import Degrees, suggest
from ditmesh.job.caching import choose_cache
from ditmesh.job.call import asked_arguments, default_arguments, given
from ditmesh.job.checks import check_facts, check_place
from ditmesh.job.description import Flags, Job
from ditmesh.job.example import Example
from ditmesh.job.facts import PipelineFacts, read_pipeline
from ditmesh.job.numbers import check_numbers
from ditmesh.job.quantization import find_quantization
from ditmesh.job.weights import find_lora
from ditmesh.replicas.engines import read_replicas
from ditmesh.runtime.world import World

BACKENDS = ("xdit", "diffusers")
DTYPES = ("bfloat16", "float16", "float32")
OFFLOADS = {"model": "cpu_offload", "sequential": "sequential_cpu_offload", "block_level": "group_offload"}
PER_PICTURE = ("prompt", "num_images_per_prompt")
OPTIMIZATIONS = {name: name for name in ("compile", "vae_tiling", "vae_slicing")}  # of --optimize
FLAGS = Flags(kernel="--attention_backend", cache="cache_dit", offload=OFFLOADS, **OPTIMIZATIONS)


@dataclass(frozen=True)
class Batch:
    """Many pictures to draw with one job.

    Attributes:
        prompt: the one prompt, if there is no file.
        batch_size: of one replica.
        replicas: how many there are at least and at most.
        notes: what was decided in the user's place.
    """

    job: Job
    options: BatchOptions
    prompt: str | None
    batch_size: int
    replicas: range
    notes: tuple[str, ...]
    debug: bool


def describe_batch(options: BatchOptions, world: World, environment: Mapping[str, str] = os.environ) -> Batch:
    """Check everything that can be checked without torch and without weights.

    Raises:
        ValueError: something asked for cannot be done; the message says what, why, and what would work.
    """
    for flag in given_flags(options, "nnodes", "node_rank", "rdzv_endpoint"):
        raise ValueError(
            f"{flag} is no more: use --engine ray for a cluster, or torchrun --nnodes around `-m ditmesh.generate` for "
            f"one picture."
        )
    notes: list[str] = []
    debug = is_on(environment, DEBUG)
    layout = choose_layout(options, world, environment)
    named, model = choose_model(options.model_name, environment)
    facts = read_pipeline(model, flag="--model_name")
    example = choose_example(named, model, facts)
    prompt = choose_prompt(options, example, notes)
    for flag, folder in (("--output_dir", options.output_dir), ("--log_dir", options.log_dir)):
        if folder is not None:
            check_place(flag, folder, folder)
    if layout.dp_size > 1 and asdict(options)["dp_size"] is None and options.num_gpus is not None:
        notes.append(f"{options.num_gpus} ranks make the layout {layout}")
    if options.backend == "diffusers" and (unused := [name for name in environment if name.startswith(PREFIX)]):
        notes.append(f"--backend diffusers splits no picture, so that {', '.join(unused)} is not used")
    job = check_facts(job_of(options, example, model, facts, layout, prompt))
    replicas = choose_replicas(options, layout)
    batch_size = max(1, options.batch_size // (replicas.stop - 1))
    return Batch(job, options, prompt, batch_size, replicas, tuple(notes), debug)


def job_of(
    options: BatchOptions,
    example: Example,
    model: str,
    facts: PipelineFacts,
    layout: ParallelismConfig,
    prompt: str | None,
) -> Job:
    """The job that draws every picture, each with what its row says beside it."""
    if options.torch_dtype not in (None, *DTYPES):
        raise ValueError(f"--torch_dtype {options.torch_dtype} is none of {', '.join(DTYPES)}.")
    extra = extra_arguments(options.extra_input_kwargs)
    for name in PER_PICTURE:
        if name in extra:
            raise ValueError(f"--extra-input-kwargs: {name} is of each picture; use --{name}.")
    asked = {name: value for name, value in (asked_arguments(options) | extra).items() if name != "prompt"}
    check_numbers(given(num_images_per_prompt=options.num_images_per_prompt))
    call = {**default_arguments(example), **asked, "prompt": prompt}
    tuning, kernel, cached = choose_optimizations(options)
    steps = call.get("num_inference_steps")
    return Job(
        example=example,
        model=model,
        facts=facts,
        layout=layout,
        call=given(**call),
        asked=frozenset(asked),
        seed=example.seed if options.seed is None else options.seed,
        lora=find_lora(example, options.lora_path, options.lora_weight_name, not options.disable_fuse_lora, steps),
        cache=choose_cache(example, len(facts.transformers), steps, flag=FLAGS.cache) if cached else None,
        kernel=kernel,
        quantized=find_quantization(options.quantize, options.quantized_text, facts.components, "--quantize"),
        allow_pickle=options.allow_pickle,
        tuning=tuning,
        dtype=options.torch_dtype,
        device=options.device,
        flags=FLAGS,
    )


def choose_layout(options: BatchOptions, world: World, environment: Mapping[str, str]) -> ParallelismConfig:
    """The degrees, as many as there are ranks.

    Raises:
        ValueError: they contradict each other, or the number of ranks.
    """
    if options.backend not in BACKENDS:
        raise ValueError(f"--backend {options.backend}: {suggest(options.backend, BACKENDS)}")
    flags = {f.name: asdict(options)[f.name] for f in fields(Degrees)}
    flags |= {size: 1 + on for size, on in flags.items() if isinstance(on, bool)}
    others = given(
        num_pipeline_patch=options.num_pipeline_patch,
        warmup_steps=options.warmup_steps,
        shard_weights=options.shard_weights or None,
    )
    ranks = world.ranks(options.num_gpus, "--num_gpus")
    if options.parallel is not None:
        named = [flag_of(options, size) for size, degree in flags.items() if degree is not None]
        if named := [*named, *(name for name in environment if name.startswith(PREFIX))]:
            raise ValueError(f"--parallel names all degrees, and {named[0]} one of them; use --parallel alone.")
        layout = replace(ParallelismConfig.parse(options.parallel, ranks), **others)
        check_world(layout, ranks or layout.world_size)
        flags, environment = {size: asdict(layout)[size] for size in flags}, {}
    if options.backend == "diffusers":
        if any(degree not in (None, 1) for size, degree in flags.items() if size != "dp_size"):
            raise ValueError("--backend diffusers splits no picture, and a degree asks to; use --backend xdit.")
        return choose_degrees({"dp_size": flags.get("dp_size")}, {}, ranks, others)
    return choose_degrees(flags, environment, ranks, others)


def choose_replicas(options: BatchOptions, layout: ParallelismConfig) -> range:
    """How many replicas there are at least and at most: of a cluster as many as it has room for.

    Raises:
        ValueError: it is no such range, or is asked of this machine.
    """
    if options.engine == "local":
        for flag in given_flags(options, "ray_address", "replicas"):
            raise ValueError(f"{flag} is for a cluster; add --engine ray, or use --data_parallel_degree.")
    if options.replicas is None:
        return range(layout.dp_size, layout.dp_size + 1)
    if layout.dp_size > 1:
        raise ValueError(f"--replicas {options.replicas} and a layout of {layout.dp_size} replicas; use one of them.")
    return read_replicas(options.replicas)


def choose_model(name: str, environment: Mapping[str, str]) -> tuple[Example | None, str]:
    """The example that knows the model by this name, and where the model is.

    A hub id, its part behind the organisation, and an example's name all name an example's model; a variable such as
    FLUX_DIR then says where a copy of it is.
    """
    if Path(name).expanduser().is_dir():
        return None, name
    for example in sorted(PICTURES.values(), key=lambda example: example.name != name):
        if name in (example.name, example.model, example.model.rpartition("/")[2]):
            return example, environment.get(example.folder_variable or "") or example.model
    if "/" not in name:
        short = [example.model.rpartition("/")[2] for example in PICTURES.values() if example.folder_variable]
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
        found = example_of(facts.class_name, model)
        if found is None:
            return Example(Path(model).name, facts.class_name, model, "", steps=None, height=None, width=None)
    if found.input:
        raise ValueError(f"{model} is a {facts.class_name}, which needs an image; use `ditmesh generate {found.name}`.")
    if found.frames:
        raise ValueError(f"{model} is a {facts.class_name}, which makes videos; use `ditmesh generate {found.name}`.")
    return replace(found, model=model, lora=found.lora if found is named else None)


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
