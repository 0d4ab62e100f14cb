"""The flags of `ditmesh generate`: one frozen record, whose fields are their names, help texts and defaults."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

# As ParallelismConfig.parse reads them; a test holds the two together.
WORDS = ("tp", "ulysses", "ring", "usp", "tp_ulysses", "ulysses_tp", "tp_ring", "ring_tp", "usp_tp")
PICTURE, INPUT, MODEL = "Picture or video", "Images that go in", "Model"
LAYOUT, CACHE, MEMORY, MEASURE = "Layout", "Cache", "Memory and speed", "Measure and check"


def _option(panel: str, help: str, *names: str, low: int | None = None, value: str | None = None):
    return typer.Option(*names, help=help, min=low, metavar=value, rich_help_panel=panel, show_default=False)


def _count(panel: str, help: str, *names: str, low: int | None = 1):
    return _option(panel, help, *names, low=low, value="N")


def _text(panel: str, help: str, *names: str, value: str = "TEXT"):
    return _option(panel, help, *names, value=value)


Text = str | None
Texts = list[str] | None
Count = int | None
Number = float | None
Switch = bool


@dataclass(frozen=True)
class Options:
    """The flags as given; None where one was not."""

    example: Annotated[
        str,
        typer.Argument(metavar="EXAMPLE", help="What to draw with, or 'list' to see the examples.", show_default=False),
    ]

    prompt: Annotated[Text, _text(PICTURE, "What to draw.", "--prompt")] = None
    negative_prompt: Annotated[Text, _text(PICTURE, "What to keep away from.", "--negative-prompt")] = None
    skip_negative_prompt: Annotated[
        Switch,
        _option(PICTURE, "Leave the example's negative prompt out.", "--skip-neg", "--skip-negative_prompt"),
    ] = False
    steps: Annotated[Count, _count(PICTURE, "Denoising steps.", "--steps", "--num_inference_steps")] = None
    height: Annotated[Count, _count(PICTURE, "Pixels.", "--height")] = None
    width: Annotated[Count, _count(PICTURE, "Pixels.", "--width")] = None
    num_frames: Annotated[Count, _count(PICTURE, "Length of a video.", "--num-frames", "--frames")] = None
    fps: Annotated[Count, _count(PICTURE, "Frames per second of a video.", "--fps", "--saved-fps")] = None
    seed: Annotated[Count, _count(PICTURE, "The noise depends on this alone.", "--seed", low=None)] = None
    generator_device: Annotated[
        str, _text(PICTURE, "Where noise is drawn: cpu (default), cuda.", "--generator-device", "--gen-device")
    ] = "cpu"
    extra_input_kwargs: Annotated[
        Text, _text(PICTURE, "More arguments of the pipeline's call, as a Python dict.", "--extra-input-kwargs")
    ] = None
    save_path: Annotated[
        Path | None,
        _option(PICTURE, "File to write (EXAMPLE.HxW.LAYOUT.png or .mp4).", "--save-path", value="FILE"),
    ] = None

    image_path: Annotated[
        Texts,
        _text(INPUT, "A file or http(s) URL; several by commas, or the flag again.", "--image-path", value="IMAGE"),
    ] = None
    mask_image_path: Annotated[
        Text, _text(INPUT, "What to fill, in white; a file or http(s) URL.", "--mask-image-path", value="IMAGE")
    ] = None
    input_height: Annotated[
        Count, _count(INPUT, "Resize the images first; one side alone keeps their shape.", "--input-height")
    ] = None
    input_width: Annotated[Count, _count(INPUT, "Likewise.", "--input-width")] = None

    model_path: Annotated[
        Text, _text(MODEL, "A folder or hub id to load instead of the example's.", "--model-path", value="MODEL")
    ] = None
    transformer_path: Annotated[
        Text, _text(MODEL, "Take the transformer from this folder or hub id.", "--transformer-path", value="MODEL")
    ] = None
    controlnet_path: Annotated[
        Text, _text(MODEL, "Take the ControlNet from this folder, file or hub id.", "--controlnet-path", value="MODEL")
    ] = None
    lora_path: Annotated[
        Text, _text(MODEL, "LoRA weights to fuse in: a file, folder or hub id.", "--lora-path", value="LORA")
    ] = None
    lora_weight_name: Annotated[
        Text,
        _text(MODEL, "The file of the folder or hub id.", "--lora-weight-name", value="FILE"),
    ] = None
    disable_fuse_lora: Annotated[
        Switch, _option(MODEL, "Keep LoRA weights beside the model's.", "--disable-fuse-lora")
    ] = False
    attn: Annotated[
        Text, _text(MODEL, "Attention kernel, as diffusers names it: native, flash ...", "--attn", value="NAME")
    ] = None

    parallel: Annotated[
        Text,
        _text(
            LAYOUT,
            f"Degrees, as in ulysses4.tp2, or a word that shares out all ranks: {', '.join(WORDS)}.",
            "--parallel",
            "--parallel-type",
            value="LAYOUT",
        ),
    ] = None
    num_pipeline_patch: Annotated[
        Count, _count(LAYOUT, "Patches that follow each other through the stages of ppN (N).", "--num-pipeline-patch")
    ] = None
    pipeline_warmup_steps: Annotated[
        Count, _count(LAYOUT, "First steps that the stages run whole (1).", "--pipeline-warmup-steps")
    ] = None
    nproc: Annotated[Count, _count(LAYOUT, "Ranks to start here, if --parallel leaves it open.", "--nproc")] = None
    oversubscribe: Annotated[
        Switch, _option(LAYOUT, "Start more ranks than this machine's cores and memory bear.", "--oversubscribe")
    ] = False
    parallel_text: Annotated[
        Switch,
        _option(LAYOUT, "Share the text encoders over all ranks too.", "--parallel-text", "--parallel-text-encoder"),
    ] = False
    parallel_vae: Annotated[Switch, _option(LAYOUT, "Share the VAE over all ranks too.", "--parallel-vae")] = False
    parallel_controlnet: Annotated[
        Switch, _option(LAYOUT, "Share the ControlNet like the transformer.", "--parallel-controlnet")
    ] = False

    config_path: Annotated[
        Path | None,
        _option(
            LAYOUT, "A YAML file with cache_config, parallelism_config ...", "--config", "--config-path", value="FILE"
        ),
    ] = None

    cache: Annotated[Switch, _option(CACHE, "Leave out blocks that would add what they added before.", "--cache")] = (
        False
    )
    residual_diff_threshold: Annotated[
        Number,
        _option(CACHE, "How different a cached step may be (0.12).", "--rdt", "--residual-diff-threshold", value="X"),
    ] = None
    Fn_compute_blocks: Annotated[
        Count, _count(CACHE, "First blocks that always run (1).", "--Fn", "--Fn-compute-blocks")
    ] = None
    Bn_compute_blocks: Annotated[
        Count, _count(CACHE, "Last blocks that always run (0).", "--Bn", "--Bn-compute-blocks", low=0)
    ] = None
    max_warmup_steps: Annotated[
        Count, _count(CACHE, "First steps that are always computed (8).", "--ws", "--max-warmup-steps", low=0)
    ] = None
    warmup_interval: Annotated[Count, _count(CACHE, "Of those, every N-th (1).", "--wi", "--warmup-interval")] = None
    max_cached_steps: Annotated[
        Count, _count(CACHE, "Cached steps at most (-1: any).", "--mc", "--max-cached-steps", low=-1)
    ] = None
    max_continuous_cached_steps: Annotated[
        Count, _count(CACHE, "Likewise in a row (3).", "--mcc", "--max-continuous-cached-steps", low=-1)
    ] = None
    steps_mask: Annotated[Switch, _option(CACHE, "Fix steps that are computed (medium).", "--steps-mask")] = False
    mask_policy: Annotated[
        Text,
        _text(CACHE, "Fix them: slow, medium, fast, ultra; s, m, f, u.", "--scm", "--mask-policy", value="POLICY"),
    ] = None
    taylorseer: Annotated[Switch, _option(CACHE, "Extrapolate what is left out, by TaylorSeer.", "--taylorseer")] = (
        False
    )
    taylorseer_order: Annotated[Count, _count(CACHE, "Its polynomial's (1).", "--taylorseer-order")] = None
    foca: Annotated[Switch, _option(CACHE, "Extrapolate by FoCa.", "--foca")] = False
    dmd: Annotated[Switch, _option(CACHE, "Extrapolate by dynamic mode decomposition.", "--dmd")] = False
    dmd_history: Annotated[Count, _count(CACHE, "Steps that it looks at (6).", "--dmd-history", low=4)] = None
    dmd_svd_precision: Annotated[
        Text, _text(CACHE, "low, medium, high.", "--dmd-svd", "--dmd-svd-precision", value="NAME")
    ] = None
    cache_summary: Annotated[
        Switch, _option(CACHE, "Show what was cached, as a table.", "--summary", "--cache-summary")
    ] = False

    vae_tiling: Annotated[Switch, _option(MEMORY, "Decode in tiles: less memory, seams possible.", "--vae-tiling")] = (
        False
    )
    vae_slicing: Annotated[Switch, _option(MEMORY, "Decode a batch one by one.", "--vae-slicing")] = False
    cpu_offload: Annotated[
        Switch,
        _option(MEMORY, "Keep on the GPU only the part that runs.", "--cpu-offload", "--cpu-offload-model"),
    ] = False
    compile: Annotated[Switch, _option(MEMORY, "Compile the transformers' repeated blocks.", "--compile")] = False

    warmup: Annotated[Count, _count(MEASURE, "Untimed runs first (1; demo: 0).", "--warmup", low=0)] = None
    warmup_steps: Annotated[
        Count, _count(MEASURE, "Steps of an untimed run.", "--warmup-steps", "--warmup-num-inference-steps")
    ] = None
    warmup_prompt: Annotated[Text, _text(MEASURE, "The prompt of untimed runs.", "--warmup-prompt")] = None
    warmup_seed: Annotated[Count, _count(MEASURE, "The seed of untimed runs.", "--warmup-seed", low=None)] = None
    repeat: Annotated[int, _count(MEASURE, "Timed runs; their mean is shown (1).", "--repeat")] = 1
    track_memory: Annotated[
        Switch, _option(MEASURE, "Show peak memory by rank and phase.", "--track-memory", "--mem")
    ] = False
    verify: Annotated[
        Switch, _option(MEASURE, "Run again in one process, compare, save both side by side.", "--verify")
    ] = False
