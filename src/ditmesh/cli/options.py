"""The flags of `ditmesh generate`: names, help texts, and the frozen record the verb makes of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

# As ParallelismConfig.parse reads them; a test holds the two together.
WORDS = ("tp", "ulysses", "ring", "usp", "tp_ulysses", "ulysses_tp", "tp_ring", "ring_tp", "usp_tp")
MODEL, PICTURE, LAYOUT, MEASURE = "Model", "Picture or video", "Layout", "Measure and check"


def _option(panel: str, help: str, *names: str, low: int | None = None, value: str | None = None):
    return typer.Option(*names, help=help, min=low, metavar=value, rich_help_panel=panel, show_default=False)


def _count(panel: str, help: str, *names: str, low: int | None = 1):
    return _option(panel, help, *names, low=low, value="N")


def _text(panel: str, help: str, *names: str):
    return _option(panel, help, *names, value="TEXT")


Example = Annotated[
    str, typer.Argument(metavar="EXAMPLE", help="What to draw with, or 'list' to see the examples.", show_default=False)
]
Prompt = Annotated[str | None, _text(PICTURE, "What to draw.", "--prompt")]
NegativePrompt = Annotated[str | None, _text(PICTURE, "What to keep away from.", "--negative-prompt")]
Steps = Annotated[int | None, _count(PICTURE, "Denoising steps.", "--steps", "--num_inference_steps")]
Height = Annotated[int | None, _count(PICTURE, "Pixels.", "--height")]
Width = Annotated[int | None, _count(PICTURE, "Pixels.", "--width")]
Frames = Annotated[int | None, _count(PICTURE, "Length of a video.", "--num-frames", "--frames")]
Fps = Annotated[int | None, _count(PICTURE, "Frames per second of a video (8).", "--fps", "--saved-fps")]
Seed = Annotated[int | None, _count(PICTURE, "The noise depends on this alone (0).", "--seed", low=None)]
GeneratorDevice = Annotated[
    str | None, _text(PICTURE, "Where noise is drawn: cpu (default), cuda.", "--generator-device", "--gen-device")
]
ExtraInputs = Annotated[
    str | None, _text(PICTURE, "More arguments of the pipeline's call, as a Python dict.", "--extra-input-kwargs")
]
SavePath = Annotated[
    Path | None,
    _option(PICTURE, "File to write (EXAMPLE.HxW.LAYOUT.png or .mp4).", "--save-path", value="FILE"),
]

ModelPath = Annotated[str | None, _text(MODEL, "A folder or hub id to load instead of the example's.", "--model-path")]
Attn = Annotated[str | None, _text(MODEL, "Attention kernel, as diffusers names it: native, flash ...", "--attn")]
VaeTiling = Annotated[bool, _option(MODEL, "Decode in tiles: less memory, seams possible.", "--vae-tiling")]
VaeSlicing = Annotated[bool, _option(MODEL, "Decode a batch one by one.", "--vae-slicing")]

Parallel = Annotated[
    str | None,
    _text(
        LAYOUT,
        f"Degrees, as in ulysses4.tp2, or a word that shares out all ranks: {', '.join(WORDS)}.",
        "--parallel",
        "--parallel-type",
    ),
]
Nproc = Annotated[int | None, _count(LAYOUT, "Ranks to start here, if --parallel leaves it open.", "--nproc")]

Warmup = Annotated[int | None, _count(MEASURE, "Untimed runs first (1; demo: 0).", "--warmup", low=0)]
WarmupSteps = Annotated[
    int | None, _count(MEASURE, "Steps of an untimed run.", "--warmup-steps", "--warmup-num-inference-steps")
]
Repeat = Annotated[int, _count(MEASURE, "Timed runs; their mean is shown (1).", "--repeat")]
TrackMemory = Annotated[bool, _option(MEASURE, "Show peak memory by rank and phase.", "--track-memory", "--mem")]
Verify = Annotated[bool, _option(MEASURE, "Run again in one process, compare, save both side by side.", "--verify")]


@dataclass(frozen=True)
class Options:
    """The flags as given; None where one was not."""

    example: str
    model_path: str | None
    attn: str | None
    vae_tiling: bool
    vae_slicing: bool
    prompt: str | None
    negative_prompt: str | None
    steps: int | None
    height: int | None
    width: int | None
    num_frames: int | None
    fps: int | None
    seed: int | None
    generator_device: str | None
    extra_input_kwargs: str | None
    save_path: Path | None
    parallel: str | None
    nproc: int | None
    warmup: int | None
    warmup_steps: int | None
    repeat: int
    track_memory: bool
    verify: bool
