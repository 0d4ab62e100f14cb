"""What an example is: which pipeline it loads, from where, and how it calls it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PICTURE_FILES, LAYER_FILES, VIDEO_FILES = (".png", ".jpg", ".jpeg", ".webp"), (".png", ".webp"), (".mp4",)


IMAGE_MASK = "image, mask"


@dataclass(frozen=True)
class Images:
    """The images that a pipeline's call takes.

    Attributes:
        image, mask: the arguments that --image-path and --mask-image-path go to.
        needed: whether the call is nothing without them.
        many: the argument is a list.
        mode: the channels the pipeline expects, as Pillow names them.
    """

    image: str = "image"
    mask: str | None = None
    needed: bool = True
    many: bool = False
    mode: str = "RGB"


@dataclass(frozen=True)
class Lora:
    """A repository of LoRA weights, with the file for each number of steps; the first is the example's."""

    model: str
    files: Mapping[int, str]


@dataclass(frozen=True)
class ControlNet:
    """The ControlNet that an example adds to its model; ``file`` is a checkpoint that is no diffusers folder."""

    class_name: str
    model: str
    file: str | None = None


@dataclass(frozen=True)
class CacheSettings:
    """How an example is cached, where neither a flag nor a file says otherwise: fields of DBCacheConfig.

    Attributes:
        fields: for a number of steps; the first entry is for every other number.
        transformers: what each of several transformers does differently.
        factors: what the threshold is multiplied by, for each list of blocks.
    """

    fields: Mapping[int, Mapping[str, Any]] = field(default_factory=dict[int, Mapping[str, Any]])
    transformers: tuple[Mapping[str, Any], ...] = ()
    factors: tuple[float, ...] = ()


@dataclass(frozen=True)
class Example:
    """One row of `ditmesh generate list`.

    Attributes:
        pipeline: the diffusers class whose arguments `call` holds.
        model: a hub id, or a folder for a model that is here already.
        steps: None where the call has no single number of steps.
        folder_variable: the environment variable that names a local copy of the model instead.
        height, width: pixels; None where the pipeline takes them from the image.
        frames: the length of a video; None for a picture.
        fps: frames per second of a video, and ``rate_argument`` the argument of the call that has to know them.
        call: further arguments of the pipeline's call.
        saved_as: pipeline classes whose saved models have all that ``pipeline`` needs.
        cache: its settings if it is cached.
        layers: the result is a stack of pictures with transparency.
        seed: of the noise.
        warmup: how many untimed runs come first.
        dtype: of the weights on a GPU; on a CPU they are float32.
    """

    name: str
    pipeline: str
    model: str
    prompt: str
    steps: int | None
    folder_variable: str | None = None
    height: int | None = 1024
    width: int | None = 1024
    frames: int | None = None
    fps: int = 8
    rate_argument: str | None = None
    call: Mapping[str, Any] = field(default_factory=dict[str, Any])
    images: Images | None = None
    lora: Lora | None = None
    controlnet: ControlNet | None = None
    cache: CacheSettings = field(default_factory=CacheSettings)
    saved_as: tuple[str, ...] = ()
    layers: bool = False
    seed: int = 0
    warmup: int = 1
    dtype: str = "bfloat16"

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The kinds of files its output can be saved as; the first is the default."""
        if self.frames:
            return VIDEO_FILES
        return LAYER_FILES if self.layers else PICTURE_FILES

    @property
    def size(self) -> str:
        if self.height is None:
            return "the image's"
        return f"{self.height}x{self.width}" + (f"x{self.frames}" if self.frames else "")

    @property
    def guidance(self) -> float | None:
        """How far the call leans on its prompt, by whichever name its pipeline has for it."""
        return self.call.get("true_cfg_scale", self.call.get("guidance_scale"))

    @property
    def input(self) -> str:
        """The images it needs, in a few words."""
        if self.images is None or not self.images.needed:
            return ""
        return IMAGE_MASK if self.images.mask else "image"
