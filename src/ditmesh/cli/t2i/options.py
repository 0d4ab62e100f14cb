"""The flags of `ditmesh t2i`: one frozen record, whose fields are their names, help texts and defaults."""

from dataclasses import MISSING, dataclass
from pathlib import Path

from ditmesh.cli.flags import count, option, record, same, switch
from ditmesh.cli.generate.options import Options
from ditmesh.config import AXES
from ditmesh.job.quantization import WHAT as HOW

WHAT, OUT, MODEL, LAYOUT, SPEED = "What to draw", "Where to", "Model", "Layout", "Memory and speed"
CLUSTER = "Where it runs"
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
        WHAT, "A prompt a row: .jsonl, .json, .csv, .txt or .parquet; - for standard input.", "--prompts_file FILE"
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
    extra_input_kwargs: Text = same(Options, "extra_input_kwargs", WHAT)

    output_dir: Path = option(OUT, "Folder for pictures (./output).", "--output_dir DIR", default=Path("./output"))
    resume: bool = switch(
        OUT, "Keep the pictures that the folder's manifest lists (yes).", "--resume/--no_resume", default=True
    )
    overwrite: bool = switch(OUT, "Replace other pictures of the same names.", "--overwrite")
    dry_run: bool = same(Options, "dry_run", OUT)
    log_dir: Path | None = option(OUT, "A log of the job, in this folder.", "--log_dir DIR")

    torch_dtype: Text = option(MODEL, "bfloat16, float16 or float32 (on a CPU: float32).", "--torch_dtype DTYPE")
    device: Text = option(MODEL, "cuda or cpu (cuda if there is one).", "--device DEVICE")
    quantize: Text = option(MODEL, HOW, "--quantize KIND")
    quantized_text: bool = switch(MODEL, "Quantize the text encoders likewise.", "--quantized-text")
    allow_pickle: bool = switch(MODEL, "Read weights from pickles too, which run what they hold.", "--allow-pickle")
    attention_backend: Text = option(MODEL, "Attention kernel, as diffusers names it.", "--attention_backend NAME")

    lora_path: Text = same(Options, "lora_path", MODEL)
    lora_weight_name: Text = same(Options, "lora_weight_name", MODEL)
    disable_fuse_lora: bool = same(Options, "disable_fuse_lora", MODEL)

    backend: str = option(LAYOUT, BACKENDS, "--backend NAME", default="xdit")
    parallel: Text = same(Options, "parallel", LAYOUT)
    num_gpus: Count = count(LAYOUT, "Ranks in all; what degrees leave over becomes dp.", "--num_gpus N")
    batch_size: int = count(LAYOUT, "Pictures in work at once, over all replicas (1).", "--batch_size N", default=1)
    num_pipeline_patch: Count = count(LAYOUT, "Patches in the pipeline.", "--num_pipeline_patch N")
    warmup_steps: Count = count(LAYOUT, "First steps of a pipeline.", "--warmup_steps N", low=0)
    shard_weights: bool = switch(LAYOUT, "Share out weights that ranks would each hold whole.", "--shard_weights")
    no_check: bool = switch(LAYOUT, "Do not warn before a run that cannot fit.", "--no-check")
    oversubscribe: bool = switch(LAYOUT, "Start more ranks than this machine bears.", "--oversubscribe")

    optimize: Text = option(
        SPEED, "By commas: compile, vae_slicing, vae_tiling, cpu_offload, group_offload, flash ...", "--optimize TEXT"
    )
    cache_type: Text = option(SPEED, "cache_dit: leave out what hardly changes.", "--cache_type TEXT")
    enable_compile: bool = switch(SPEED, "As compile in --optimize.", "--enable_compile")
    enable_cpu_offload: bool = switch(SPEED, "Likewise.", "--enable_cpu_offload")
    enable_vae_slicing: bool = switch(SPEED, "Likewise.", "--enable_vae_slicing")
    enable_vae_tiling: bool = switch(SPEED, "Likewise.", "--enable_vae_tiling")

    engine: str = option(CLUSTER, "local: on this machine. ray: on a cluster of Ray.", "--engine NAME", default="local")
    ray_address: Text = option(CLUSTER, "The cluster: auto, or HOST:PORT.", "--ray-address ADDRESS")
    replicas: Text = option(CLUSTER, "How many there may be on a cluster, as in 2..8.", "--replicas MIN..MAX")
    nnodes: Text = option("", "No more.", "--nnodes N", hidden=True)
    node_rank: Text = option("", "No more.", "--node_rank N", hidden=True)
    rdzv_endpoint: Text = option("", "No more.", "--rdzv_endpoint HOST:PORT", hidden=True)
