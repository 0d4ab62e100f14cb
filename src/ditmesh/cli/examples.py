"""The examples of `ditmesh generate`: what each loads and how it calls it, as data."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ditmesh

CAT_SIGN = "A cat holding a sign that says hello world"
COFFEE_SHOP = (
    'A coffee shop entrance with a chalkboard sign reading "Qwen Coffee", a neon light beside it, '
    "and a poster of a smiling woman; ultra HD, 4K, cinematic composition."
)
CAT_WALKS = "A cat walks on the grass, realistic"
WAN_NEGATIVE = (
    "Bright tones, overexposed, static, blurred details, subtitles, style, works, paintings, images, overall gray, "
    "worst quality, low quality, JPEG compression residue, ugly, incomplete, extra fingers, poorly drawn hands, "
    "poorly drawn faces, deformed, disfigured, misshapen limbs, fused fingers, still picture, messy background, "
    "three legs, many people in the background, walking backwards"
)


@dataclass(frozen=True)
class Example:
    """One row of `ditmesh generate list`.

    Attributes:
        pipeline: the diffusers class whose arguments `call` holds.
        model: a hub id, or a folder for a model that is here already.
        folder_variable: the environment variable that names a local copy of the model instead.
        height, width: pixels.
        frames: the length of a video; None for a picture.
        call: further arguments of the pipeline's call.
        warmup: how many untimed runs come first.
        dtype: of the weights on a GPU; on a CPU they are float32.
    """

    name: str
    pipeline: str
    model: str
    prompt: str
    steps: int
    folder_variable: str | None = None
    height: int = 1024
    width: int = 1024
    frames: int | None = None
    call: Mapping[str, Any] = field(default_factory=dict)
    warmup: int = 1
    dtype: str = "bfloat16"

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The kinds of files its output can be saved as; the first is the default."""
        return (".mp4",) if self.frames else (".png", ".jpg", ".jpeg", ".webp")

    @property
    def size(self) -> str:
        return f"{self.height}x{self.width}" + (f"x{self.frames}" if self.frames else "")

    @property
    def guidance(self) -> float | None:
        """How far the call leans on its prompt, by whichever name its pipeline has for it."""
        return self.call.get("true_cfg_scale", self.call.get("guidance_scale"))


def _flux2_klein(name: str, size: str, base: bool) -> Example:
    model = f"black-forest-labs/FLUX.2-klein-{'base-' if base else ''}{size}"
    steps, scale = (50, 4.0) if base else (4, 1.0)
    variable = f"{name.upper().replace('FLUX2', 'FLUX_2')}_DIR"
    return Example(name, "Flux2KleinPipeline", model, CAT_SIGN, steps, variable, call={"guidance_scale": scale})


def _qwen_image(name: str, model: str) -> Example:
    call = {"true_cfg_scale": 4.0, "negative_prompt": " "}
    return Example(name, "QwenImagePipeline", model, COFFEE_SHOP, 50, f"{name.upper()}_DIR", call=call)


def _wan(name: str, model: str, folder_variable: str) -> Example:
    call = {"guidance_scale": 5.0, "negative_prompt": WAN_NEGATIVE}
    return Example(
        name, "WanPipeline", model, CAT_WALKS, 30, folder_variable, height=480, width=832, frames=49, call=call
    )


EXAMPLES = {
    example.name: example
    for example in (
        Example(
            "demo",
            "FluxPipeline",
            str(Path(ditmesh.__file__).parent / "demo_model"),
            "a large red circle in the centre on a white background",
            steps=28,
            height=128,
            width=128,
            call={"true_cfg_scale": 3.0, "negative_prompt": "", "max_sequence_length": 32},
            warmup=0,
            dtype="float32",
        ),
        Example("flux", "FluxPipeline", "black-forest-labs/FLUX.1-dev", CAT_SIGN, 28, "FLUX_DIR"),
        Example(
            "flux2",
            "Flux2Pipeline",
            "black-forest-labs/FLUX.2-dev",
            CAT_SIGN,
            28,
            "FLUX_2_DIR",
            call={"guidance_scale": 4.0},
        ),
        _flux2_klein("flux2_klein_4b", "4B", base=False),
        _flux2_klein("flux2_klein_9b", "9B", base=False),
        _flux2_klein("flux2_klein_base_4b", "4B", base=True),
        _flux2_klein("flux2_klein_base_9b", "9B", base=True),
        _qwen_image("qwen_image", "Qwen/Qwen-Image"),
        _qwen_image("qwen_image_2512", "Qwen/Qwen-Image-2512"),
        _wan("wan2.1_t2v", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "WAN_DIR"),
        _wan("wan2.2_t2v", "Wan-AI/Wan2.2-T2V-A14B-Diffusers", "WAN_2_2_DIR"),
    )
}


def find_example(name: str) -> Example:
    """The example of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in EXAMPLES:
        close = difflib.get_close_matches(name, EXAMPLES, n=1)
        meant = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(EXAMPLES)}."
        raise ValueError(f"there is no example {name!r}; {meant} (`ditmesh generate list` says more)")
    return EXAMPLES[name]


def for_pipeline(example: Example, pipeline: str) -> Example:
    """The example on a pipeline of this class: its prompt, size and steps, with the arguments that class takes.

    Raises:
        ValueError: no example has such a pipeline.
    """
    if pipeline == example.pipeline:
        return example
    for other in EXAMPLES.values():
        if other.pipeline == pipeline:
            return replace(example, pipeline=pipeline, frames=other.frames, call=other.call)
    known = ", ".join(dict.fromkeys(other.pipeline for other in EXAMPLES.values()))
    raise ValueError(f"the model is a {pipeline}, which no example calls; use one of {known}.")
