"""The flags of `ditmesh t2i`: one frozen record, whose fields are their names, help texts and defaults."""

from dataclasses import MISSING, dataclass
from pathlib import Path

from ditmesh.cli.flags import count, option, record, switch
from ditmesh.config import AXES
from ditmesh.job.quantization import WHAT as HOW

WHAT, OUT, MODEL, LAYOUT, SPEED = "What to draw", "Where to", "Model", "Layout", "Memory and speed"
MACHINES = "Several machines"
BACKENDS = "xdit: spread each picture as the degrees say. diffusers: a whole model a device."

Text = str | None
Count = int | None

DEGREES = [
    (f"{name}_size", bool | None, option(LAYOUT, axis.help, axis.flag))
    if axis.most == 2
    else (f"{name}_size", Count, count(LAYOUT, axis.help, f"{axis.flag} N"))
    for name, axis in AXES.items()
]


@dataclass(frozen=True)
class BatchOptions(record("Degrees", DEGREES)):
    """The flags as given; None where one was not."""

    model_name: str = option(
        MODEL, "A hub id, a folder, or a short name such as FLUX.1-dev.", "--model_name MODEL", default=MISSING
    )

    prompt: Text = option(WHAT, "One prompt.", "--prompt TEXT")
    prompts_file: Path | None = option(
        WHAT, "A prompt a row: .jsonl, .json, .csv, .txt or .parquet.", "--prompts_file FILE"
    )
    negative_prompt: Text = option(WHAT, "What to keep away from.", "--negative_prompt TEXT")
    num_images_per_prompt: Count = count(WHAT, "Pictures of each prompt (1).", "--num_images_per_prompt N")
    height: Count = count(WHAT, "Pixels.", "--height N")
    width: Count = count(WHAT, "Pixels.", "--width N")
    num_inference_steps: Count = count(WHAT, "Denoising steps.", "--num_inference_steps N")
    guidance_scale: float | None = option(WHAT, "How far to lean on the prompt.", "--guidance_scale X")
    true_cfg_scale: float | None = option(
        WHAT, "Likewise, against the negative prompt, where a model has both.", "--true_cfg_scale X"
    )
    seed: Count = count(WHAT, "Noise depends on this, the row and the image's number alone.", "--seed N", low=0)

    output_dir: Path = option(OUT, "Folder for pictures (./output).", "--output_dir DIR", default=Path("./output"))
    resume: bool = switch(
        OUT, "Keep the pictures that the folder's manifest lists (yes).", "--resume/--no_resume", default=True
    )
    log_dir: Path | None = option(OUT, "A log for each rank, in this folder.", "--log_dir DIR")

    torch_dtype: Text = option(MODEL, "bfloat16, float16 or float32 (on a CPU: float32).", "--torch_dtype DTYPE")
    device: Text = option(MODEL, "cuda or cpu (cuda if there is one).", "--device DEVICE")
    quantize: Text = option(MODEL, HOW, "--quantize KIND")
    quantized_text: bool = switch(MODEL, "Quantize the text encoders likewise.", "--quantized-text")
    allow_pickle: bool = switch(MODEL, "Read weights from pickles too, which run what they hold.", "--allow-pickle")
    attention_backend: Text = option(MODEL, "Attention kernel, as diffusers names it.", "--attention_backend NAME")

    backend: str = option(LAYOUT, BACKENDS, "--backend NAME", default="xdit")
    num_gpus: Count = count(LAYOUT, "Ranks in all; what degrees leave over becomes dp.", "--num_gpus N")
    batch_size: int = count(LAYOUT, "Pictures in work at once, over all replicas (1).", "--batch_size N", default=1)
    num_pipeline_patch: Count = count(LAYOUT, "Patches in the pipeline.", "--num_pipeline_patch N")
    warmup_steps: Count = count(LAYOUT, "First steps of a pipeline.", "--warmup_steps N", low=0)
    shard_weights: bool = switch(
        LAYOUT, "Share out weights that ranks would each hold whole.", "--shard_weights, --shard-weights"
    )
    parallel: Text = option(
        LAYOUT, "All degrees in a word, as in dp2.ulysses4; auto: those that draw most.", "--parallel LAYOUT"
    )
    no_check: bool = switch(LAYOUT, "Do not warn before a run that cannot fit.", "--no-check, --no_check")
    oversubscribe: bool = switch(LAYOUT, "Start more ranks than this machine bears.", "--oversubscribe")

    optimize: Text = option(
        SPEED, "By commas: compile, vae_slicing, vae_tiling, cpu_offload, group_offload, flash ...", "--optimize TEXT"
    )
    cache_type: Text = option(SPEED, "cache_dit: leave out what hardly changes.", "--cache_type TEXT")
    enable_compile: bool = switch(SPEED, "As compile in --optimize.", "--enable_compile")
    enable_cpu_offload: bool = switch(SPEED, "Likewise.", "--enable_cpu_offload")
    enable_vae_slicing: bool = switch(SPEED, "Likewise.", "--enable_vae_slicing")
    enable_vae_tiling: bool = switch(SPEED, "Likewise.", "--enable_vae_tiling")

    nnodes: int = count(MACHINES, "How many; the same command runs on each (1).", "--nnodes N", default=1)
    node_rank: Count = count(MACHINES, "Which of them this is, from 0.", "--node_rank N", low=0)
    rdzv_endpoint: Text = option(MACHINES, "Where they meet: machine 0, with a port.", "--rdzv_endpoint HOST:PORT")
