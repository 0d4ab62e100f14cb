"""The flags of `ditmesh generate`: one frozen record, whose fields are their names, help texts and defaults."""

from dataclasses import dataclass, fields
from pathlib import Path

from ditmesh.cli.flags import argument, count, option, record, switch
from ditmesh.config import WORDS, calibrators
from ditmesh.job.quantization import WHAT

PICTURE, INPUT, MODEL = "Picture or video", "Images that go in", "Model"
LAYOUT, CACHE, MEMORY, MEASURE = "Layout", "Cache", "Memory and speed", "Measure and check"
IMAGES = "A file or http(s) URL; several by commas, or the flag again."
DEGREES = f"Degrees, as in ulysses4.tp2, auto, or a word that shares out all ranks: {', '.join(WORDS)}."

Text = str | None
Count = int | None

SWITCHES = [(name, bool, switch(CACHE, *kind.flag)) for name, kind in calibrators().items()]
SETTINGS = [
    (f.name, type(f.default) | None, option(CACHE, *f.metadata["flag"], low=f.metadata["low"]))
    for kind in calibrators().values()
    for f in fields(kind)
    if "flag" in f.metadata
]


@dataclass(frozen=True)
class Options(record("Calibrators", [*SWITCHES, *SETTINGS])):
    """The flags as given; None where one was not."""

    example: str = argument("What to draw with, or 'list' to see the examples.", "EXAMPLE")

    prompt: Text = option(PICTURE, "What to draw.", "--prompt TEXT")
    negative_prompt: Text = option(PICTURE, "What to keep away from.", "--negative-prompt TEXT")
    skip_negative_prompt: bool = switch(
        PICTURE, "Leave the example's negative prompt out.", "--skip-neg, --skip-negative_prompt"
    )
    steps: Count = count(PICTURE, "Denoising steps.", "--steps, --num_inference_steps N")
    height: Count = count(PICTURE, "Pixels.", "--height N")
    width: Count = count(PICTURE, "Pixels.", "--width N")
    num_frames: Count = count(PICTURE, "Length of a video.", "--num-frames, --frames N")
    fps: Count = count(PICTURE, "Frames per second of a video.", "--fps, --saved-fps N")
    seed: Count = count(PICTURE, "The noise depends on this alone.", "--seed N", low=None)
    generator_device: str = option(
        PICTURE, "Where noise is drawn: cpu (default), cuda.", "--generator-device, --gen-device TEXT", default="cpu"
    )
    extra_input_kwargs: Text = option(
        PICTURE, "More arguments of the pipeline's call, as a Python dict.", "--extra-input-kwargs TEXT"
    )
    save_path: Path | None = option(PICTURE, "File to write (EXAMPLE.HxW.LAYOUT.png or .mp4).", "--save-path FILE")

    image_path: list[str] | None = option(INPUT, IMAGES, "--image-path IMAGE")
    mask_image_path: Text = option(INPUT, "What to fill, in white; a file or http(s) URL.", "--mask-image-path IMAGE")
    input_height: Count = count(INPUT, "Resize the images first; one side alone keeps their shape.", "--input-height N")
    input_width: Count = count(INPUT, "Likewise.", "--input-width N")

    model_path: Text = option(MODEL, "A folder or hub id to load instead of the example's.", "--model-path MODEL")
    transformer_path: Text = option(
        MODEL, "Take the transformer from this folder or hub id.", "--transformer-path MODEL"
    )
    controlnet_path: Text = option(
        MODEL, "Take the ControlNet from this folder, file or hub id.", "--controlnet-path MODEL"
    )
    lora_path: Text = option(MODEL, "LoRA weights to fuse in: a file, folder or hub id.", "--lora-path LORA")
    lora_weight_name: Text = option(MODEL, "The file of the folder or hub id.", "--lora-weight-name FILE")
    disable_fuse_lora: bool = switch(MODEL, "Keep LoRA weights beside the model's.", "--disable-fuse-lora")
    quantize: Text = option(MODEL, WHAT, "--quantize KIND")
    quantized_text: bool = switch(MODEL, "Quantize the text encoders likewise.", "--quantized-text")
    allow_pickle: bool = switch(MODEL, "Read weights from pickles too, which run what they hold.", "--allow-pickle")
    attn: Text = option(MODEL, "Attention kernel, as diffusers names it: native, flash ...", "--attn NAME")

    parallel: Text = option(LAYOUT, DEGREES, "--parallel, --parallel-type LAYOUT")
    num_pipeline_patch: Count = count(
        LAYOUT, "Patches that follow each other through the stages of ppN (N).", "--num-pipeline-patch N"
    )
    pipeline_warmup_steps: Count = count(
        LAYOUT, "First steps that the stages run whole (1).", "--pipeline-warmup-steps N"
    )
    nproc: Count = count(LAYOUT, "Ranks to start here, if --parallel leaves it open.", "--nproc N")
    oversubscribe: bool = switch(LAYOUT, "Start more ranks than this machine bears.", "--oversubscribe")
    no_check: bool = switch(LAYOUT, "Do not warn before a run that cannot fit.", "--no-check")
    shard_weights: bool = switch(LAYOUT, "Share out weights that ranks would each hold whole.", "--shard-weights")
    parallel_text: bool = switch(
        LAYOUT, "Share the text encoders over all ranks too.", "--parallel-text, --parallel-text-encoder"
    )
    parallel_vae: bool = switch(LAYOUT, "Share the VAE over all ranks too.", "--parallel-vae")
    parallel_controlnet: bool = switch(LAYOUT, "Share the ControlNet like the transformer.", "--parallel-controlnet")
    config_path: Path | None = option(
        LAYOUT, "A YAML file with cache_config, parallelism_config ...", "--config, --config-path FILE"
    )

    cache: bool = switch(CACHE, "Leave out blocks that would add what they added before.", "--cache")
    residual_diff_threshold: float | None = option(
        CACHE, "How different a cached step may be (0.12).", "--rdt, --residual-diff-threshold X"
    )
    Fn_compute_blocks: Count = count(CACHE, "First blocks that always run (1).", "--Fn, --Fn-compute-blocks N")
    Bn_compute_blocks: Count = count(CACHE, "Last blocks that always run (0).", "--Bn, --Bn-compute-blocks N", low=0)
    max_warmup_steps: Count = count(
        CACHE, "First steps that are always computed (8).", "--ws, --max-warmup-steps N", low=0
    )
    warmup_interval: Count = count(CACHE, "Of those, every N-th (1).", "--wi, --warmup-interval N")
    max_cached_steps: Count = count(CACHE, "Cached steps at most (-1: any).", "--mc, --max-cached-steps N", low=-1)
    max_continuous_cached_steps: Count = count(
        CACHE, "Likewise in a row (3).", "--mcc, --max-continuous-cached-steps N", low=-1
    )
    steps_mask: bool = switch(CACHE, "Fix steps that are computed (medium).", "--steps-mask")
    mask_policy: Text = option(CACHE, "Fix them: slow, medium, fast, ultra; s, m, f, u.", "--scm, --mask-policy POLICY")
    cache_summary: bool = switch(CACHE, "Show what was cached, as a table.", "--summary, --cache-summary")

    vae_tiling: bool = switch(MEMORY, "Decode in tiles: less memory, seams possible.", "--vae-tiling")
    vae_slicing: bool = switch(MEMORY, "Decode a batch one by one.", "--vae-slicing")
    cpu_offload: bool = switch(MEMORY, "Keep on the GPU only the part that runs.", "--cpu-offload, --cpu-offload-model")
    group_offload: Text = option(
        MEMORY, "Keep there only the block or layer that runs: block_level, leaf_level.", "--group-offload KIND"
    )
    sequential_offload: bool = switch(MEMORY, "Keep there only the layer that runs; slowest.", "--sequential-offload")
    compile: bool = switch(MEMORY, "Compile the transformers' repeated blocks.", "--compile")

    warmup: Count = count(MEASURE, "Untimed runs first (1; demo: 0).", "--warmup N", low=0)
    warmup_steps: Count = count(MEASURE, "Steps of an untimed run.", "--warmup-steps, --warmup-num-inference-steps N")
    warmup_prompt: Text = option(MEASURE, "The prompt of untimed runs.", "--warmup-prompt TEXT")
    warmup_seed: Count = count(MEASURE, "The seed of untimed runs.", "--warmup-seed N", low=None)
    repeat: int = count(MEASURE, "Timed runs; their mean is shown (1).", "--repeat N", default=1)
    track_memory: bool = switch(MEASURE, "Show peak memory by rank and phase.", "--track-memory, --mem")
    verify: bool = switch(MEASURE, "Run again in one process, compare, save both side by side.", "--verify")
