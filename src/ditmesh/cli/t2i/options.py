"""The flags of `ditmesh t2i`: one frozen record, whose fields are their names, help texts and defaults."""

from dataclasses import MISSING, dataclass
from pathlib import Path

from ditmesh.cli.flags import count, number, option, switch, text

WHAT, OUT, MODEL, LAYOUT, SPEED = "What to draw", "Where to", "Model", "Layout", "Memory and speed"
MACHINES = "Several machines"
BACKENDS = "xdit: spread each picture as the degrees say. diffusers: a whole model a device."

Text = str | None
Count = int | None


@dataclass(frozen=True)
class BatchOptions:
    """The flags as given; None where one was not."""

    model_name: str = text(
        MODEL, "A hub id, a folder, or a short name such as FLUX.1-dev.", "--model_name", value="MODEL", default=MISSING
    )

    prompt: Text = text(WHAT, "One prompt.", "--prompt")
    prompts_file: Path | None = option(
        WHAT, "A prompt a row: .jsonl, .json, .csv, .txt or .parquet.", "--prompts_file", value="FILE"
    )
    negative_prompt: Text = text(WHAT, "What to keep away from.", "--negative_prompt")
    num_images_per_prompt: Count = count(WHAT, "Pictures of each prompt (1).", "--num_images_per_prompt")
    height: Count = count(WHAT, "Pixels.", "--height")
    width: Count = count(WHAT, "Pixels.", "--width")
    num_inference_steps: Count = count(WHAT, "Denoising steps.", "--num_inference_steps")
    guidance_scale: float | None = number(WHAT, "How far to lean on the prompt.", "--guidance_scale")
    true_cfg_scale: float | None = number(
        WHAT, "Likewise, against the negative prompt, where a model has both.", "--true_cfg_scale"
    )
    seed: Count = count(WHAT, "Noise depends on this, the row and the image's number alone.", "--seed", low=0)

    output_dir: Path = option(
        OUT, "Folder for pictures (./output).", "--output_dir", value="DIR", default=Path("./output")
    )
    resume: bool = switch(
        OUT, "Keep the pictures that the folder's manifest lists (yes).", "--resume/--no_resume", default=True
    )
    log_dir: Path | None = option(OUT, "A log for each rank, in this folder.", "--log_dir", value="DIR")

    torch_dtype: Text = text(MODEL, "bfloat16, float16 or float32 (on a CPU: float32).", "--torch_dtype", value="DTYPE")
    device: Text = text(MODEL, "cuda or cpu (cuda if there is one).", "--device", value="DEVICE")
    attention_backend: Text = text(
        MODEL, "Attention kernel, as diffusers names it.", "--attention_backend", value="NAME"
    )

    backend: str = text(LAYOUT, BACKENDS, "--backend", value="NAME", default="xdit")
    num_gpus: Count = count(LAYOUT, "Ranks in all; what degrees leave over becomes dp.", "--num_gpus")
    batch_size: int = count(LAYOUT, "Pictures in work at once, over all replicas (1).", "--batch_size", default=1)
    data_parallel_degree: Count = count(LAYOUT, "Replicas, a picture each.", "--data_parallel_degree")
    ulysses_degree: Count = count(LAYOUT, "Ranks that exchange heads.", "--ulysses_degree")
    ring_degree: Count = count(LAYOUT, "Ranks that pass keys and values around.", "--ring_degree")
    tensor_parallel_degree: Count = count(LAYOUT, "Ranks that share weights.", "--tensor_parallel_degree")
    pipefusion_degree: Count = count(LAYOUT, "Pipeline stages.", "--pipefusion_parallel_degree", "--pipefusion_degree")
    use_cfg_parallel: bool | None = option(
        LAYOUT, "Two ranks, a branch of guidance each.", "--use_cfg_parallel/--no_use_cfg_parallel"
    )
    num_pipeline_patch: Count = count(LAYOUT, "Patches in the pipeline.", "--num_pipeline_patch")
    warmup_steps: Count = count(LAYOUT, "First steps of a pipeline.", "--warmup_steps", low=0)

    optimize: Text = text(SPEED, "By commas: compile, vae_slicing, vae_tiling, cpu_offload, flash ...", "--optimize")
    cache_type: Text = text(SPEED, "cache_dit: leave out what hardly changes.", "--cache_type")
    enable_compile: bool = switch(SPEED, "As compile in --optimize.", "--enable_compile")
    enable_cpu_offload: bool = switch(SPEED, "Likewise.", "--enable_cpu_offload")
    enable_vae_slicing: bool = switch(SPEED, "Likewise.", "--enable_vae_slicing")
    enable_vae_tiling: bool = switch(SPEED, "Likewise.", "--enable_vae_tiling")

    nnodes: int = count(MACHINES, "How many; the same command runs on each (1).", "--nnodes", default=1)
    node_rank: Count = count(MACHINES, "Which of them this is, from 0.", "--node_rank", low=0)
    rdzv_endpoint: Text = text(
        MACHINES, "Where they meet: machine 0, with a port.", "--rdzv_endpoint", value="HOST:PORT"
    )
