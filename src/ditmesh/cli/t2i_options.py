"""The flags of `ditmesh t2i`: one frozen record, whose fields are their names, help texts and defaults."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ditmesh.cli.options import Count, Switch, Text, _count, _option, _text

WHAT, OUT, MODEL, LAYOUT, SPEED = "What to draw", "Where to", "Model", "Layout", "Memory and speed"
MACHINES = "Several machines"


def _scale(help: str, name: str):
    return _option(WHAT, help, name, value="X")


def _degree(help: str, *names: str):
    return _count(LAYOUT, help, *names)


@dataclass(frozen=True)
class BatchOptions:
    """The flags as given; None where one was not."""

    model_name: Annotated[
        str, _text(MODEL, "A hub id, a folder, or a short name such as FLUX.1-dev.", "--model_name", value="MODEL")
    ]

    prompt: Annotated[Text, _text(WHAT, "One prompt.", "--prompt")] = None
    prompts_file: Annotated[
        Path | None,
        _option(WHAT, "A prompt a row: .jsonl, .json, .csv, .txt or .parquet.", "--prompts_file", value="FILE"),
    ] = None
    negative_prompt: Annotated[Text, _text(WHAT, "What to keep away from.", "--negative_prompt")] = None
    num_images_per_prompt: Annotated[Count, _count(WHAT, "Pictures of each prompt (1).", "--num_images_per_prompt")] = (
        None
    )
    height: Annotated[Count, _count(WHAT, "Pixels.", "--height")] = None
    width: Annotated[Count, _count(WHAT, "Pixels.", "--width")] = None
    num_inference_steps: Annotated[Count, _count(WHAT, "Denoising steps.", "--num_inference_steps")] = None
    guidance_scale: Annotated[float | None, _scale("How far to lean on the prompt.", "--guidance_scale")] = None
    true_cfg_scale: Annotated[
        float | None, _scale("Likewise, against the negative prompt, where a model has both.", "--true_cfg_scale")
    ] = None
    seed: Annotated[
        Count, _count(WHAT, "Noise depends on this, the row and the image's number alone.", "--seed", low=0)
    ] = None

    output_dir: Annotated[Path, _option(OUT, "Folder for pictures (./output).", "--output_dir", value="DIR")] = Path(
        "./output"
    )
    resume: Annotated[
        Switch, _option(OUT, "Keep the pictures that the folder's manifest lists (yes).", "--resume/--no_resume")
    ] = True
    log_dir: Annotated[Path | None, _option(OUT, "A log for each rank, in this folder.", "--log_dir", value="DIR")] = (
        None
    )

    torch_dtype: Annotated[
        Text, _text(MODEL, "bfloat16, float16 or float32 (on a CPU: float32).", "--torch_dtype", value="DTYPE")
    ] = None
    device: Annotated[Text, _text(MODEL, "cuda or cpu (cuda if there is one).", "--device", value="DEVICE")] = None
    attention_backend: Annotated[
        Text, _text(MODEL, "Attention kernel, as diffusers names it.", "--attention_backend", value="NAME")
    ] = None

    backend: Annotated[
        str,
        _text(
            LAYOUT,
            "xdit: spread each picture as the degrees say. diffusers: a whole model a device.",
            "--backend",
            value="NAME",
        ),
    ] = "xdit"
    num_gpus: Annotated[Count, _count(LAYOUT, "Ranks in all; what degrees leave over becomes dp.", "--num_gpus")] = None
    batch_size: Annotated[int, _count(LAYOUT, "Pictures in work at once, over all replicas (1).", "--batch_size")] = 1
    data_parallel_degree: Annotated[Count, _degree("Replicas, a picture each.", "--data_parallel_degree")] = None
    ulysses_degree: Annotated[Count, _degree("Ranks that exchange heads.", "--ulysses_degree")] = None
    ring_degree: Annotated[Count, _degree("Ranks that pass keys and values around.", "--ring_degree")] = None
    tensor_parallel_degree: Annotated[Count, _degree("Ranks that share weights.", "--tensor_parallel_degree")] = None
    pipefusion_degree: Annotated[
        Count, _degree("Pipeline stages.", "--pipefusion_parallel_degree", "--pipefusion_degree")
    ] = None
    use_cfg_parallel: Annotated[
        bool | None,
        _option(LAYOUT, "Two ranks, a branch of guidance each.", "--use_cfg_parallel/--no_use_cfg_parallel"),
    ] = None
    num_pipeline_patch: Annotated[Count, _count(LAYOUT, "Patches in the pipeline.", "--num_pipeline_patch")] = None
    warmup_steps: Annotated[Count, _count(LAYOUT, "First steps of a pipeline.", "--warmup_steps", low=0)] = None
    oversubscribe: Annotated[
        Switch, _option(LAYOUT, "Start more ranks than this machine's cores and memory bear.", "--oversubscribe")
    ] = False

    optimize: Annotated[
        Text, _text(SPEED, "By commas: compile, vae_slicing, vae_tiling, cpu_offload, flash ...", "--optimize")
    ] = None
    cache_type: Annotated[Text, _text(SPEED, "cache_dit: leave out what hardly changes.", "--cache_type")] = None
    enable_compile: Annotated[Switch, _option(SPEED, "As compile in --optimize.", "--enable_compile")] = False
    enable_cpu_offload: Annotated[Switch, _option(SPEED, "Likewise.", "--enable_cpu_offload")] = False
    enable_vae_slicing: Annotated[Switch, _option(SPEED, "Likewise.", "--enable_vae_slicing")] = False
    enable_vae_tiling: Annotated[Switch, _option(SPEED, "Likewise.", "--enable_vae_tiling")] = False

    nnodes: Annotated[int, _count(MACHINES, "How many; the same command runs on each (1).", "--nnodes")] = 1
    node_rank: Annotated[Count, _count(MACHINES, "Which of them this is, from 0.", "--node_rank", low=0)] = None
    rdzv_endpoint: Annotated[
        Text, _text(MACHINES, "Where they meet: machine 0, with a port.", "--rdzv_endpoint", value="HOST:PORT")
    ] = None
