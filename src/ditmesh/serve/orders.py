"""From what a client asks for to the requests that replicas draw, checked before any of them waits in line."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ditmesh.job.call import check_two_branches, given, noise_seed
from ditmesh.job.classes import taken_arguments
from ditmesh.job.description import Job
from ditmesh.job.images import Inputs
from ditmesh.job.numbers import check_numbers
from ditmesh.job.picture import facts_of
from ditmesh.replicas.requests import Request
from ditmesh.serve.asked import Asked, Body
from ditmesh.serve.errors import Refusal, not_found
from ditmesh.serve.inputs import opened
from ditmesh.serve.settings import Settings

SUFFIXES = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}
QUALITIES = {"low": 0.5, "high": 1.5, "hd": 1.5}  # times the steps that the model has by itself
NAMED = ("negative_prompt", "num_inference_steps", "guidance_scale", "true_cfg_scale")
NOT_ASKED = ("num_images_per_prompt", "num_videos_per_prompt")  # n says it
MOST_STEPS, MOST_FRAMES, RANDOM_SEEDS = 1000, 1024, 2**32
USUAL = 1024  # pixels of a side that is not known before


@dataclass(frozen=True)
class Order:
    """One request of a client, as the replicas get it.

    Attributes:
        kind: image, edit or video.
        body: what was asked; the seed is there even if the client left it open.
        parts: a request for each picture.
        size: of each picture, as WIDTHxHEIGHT, or auto where its input decides.
        steps: of each picture, if the call has a single number of them.
        length: of a video, in seconds.
        work: of each picture: steps times values drawn.
    """

    id: str
    kind: str
    body: Body
    parts: tuple[Request, ...]
    size: str
    steps: int
    length: str
    work: float

    @property
    def asked(self) -> Asked:
        return self.body.asked


class Orders:
    """Makes them, for one job."""

    def __init__(self, job: Job, settings: Settings):
        self.job, self.settings, self.takes = job, settings, taken_arguments(job)
        self.images, self.is_video = job.example.images, bool(job.example.frames)
        self.further = {
            name: type(default)
            for name, default in self.takes.items()
            if isinstance(default, bool | int | float) and name not in (*Asked.model_fields, *NOT_ASKED)
        }

    @property
    def kinds(self) -> tuple[str, ...]:
        """What this model makes."""
        if self.is_video:
            return ("video",)
        if self.images is None:
            return ("image",)
        return ("edit",) if self.images.needed else ("image", "edit")

    def make(self, id: str, kind: str, body: Body, priority: int = 0) -> Order:
        """An order.

        Raises:
            Refusal: the model cannot draw it.
        """
        self._check_kind(kind, body)
        asked = body.asked
        if asked.model not in (None, self.settings.name, *self.settings.aliases):
            raise Refusal(404, f"The model here is {self.settings.name!r}.", "model", "model_not_found")
        self._check_words(asked)
        call = {**self.job.call, **self._call(asked), **self._pictures(body)}
        try:
            check_numbers({**call, "seed": list(asked.seeds)}, self.job.facts.smallest_side)
            if self.job.layout.cfg_size > 1:
                check_two_branches({**self.takes, **call}, self.takes, self.job.example.pipeline)
        except ValueError as error:
            raise Refusal(400, str(error), str(error).partition(":")[0], "invalid_value") from error
        self._check_cost(call)
        seeds = self._seeds(asked)
        if asked.seed is None:
            body = replace(body, asked=asked.model_copy(update={"seed": seeds[0]}))
        parts = tuple(self._part(f"{id}-{i}", call, seed, body, priority) for i, seed in enumerate(seeds))
        steps = int(call.get("num_inference_steps") or 1)
        width, height = call.get("width"), call.get("height")
        size = f"{width}x{height}" if width and height else "auto"
        frames = call.get("num_frames") or 1
        length = f"{frames / self.rate(asked):g}" if self.is_video else ""
        values = (width or USUAL) * (height or USUAL) * frames
        return Order(id, kind, body, parts, size, steps, length, steps * values)

    def _check_kind(self, kind: str, body: Body) -> None:
        if kind not in self.kinds:
            where = {"image": "/v1/images/generations", "edit": "/v1/images/edits", "video": "/v1/videos"}
            places = " and ".join(where[own] for own in self.kinds)
            message = f"{self.settings.name} answers at {places}."
            raise Refusal(400, message, code="unsupported_by_model")
        if kind == "image" and (body.images or body.mask):
            raise Refusal(400, "image: pictures go in at /v1/images/edits.", "image", "invalid_value")

    def _pictures(self, body: Body) -> dict[str, Any]:
        takes, arguments = self.images, dict[str, Any]()
        if takes is None:
            if body.images or body.mask:
                raise Refusal(400, f"image: {self.settings.name} takes none.", "image", "invalid_value")
            return {}
        if takes.needed and not body.images:
            raise Refusal(400, f"image: {self.settings.name} draws from one; send it.", "image", "missing")
        if len(body.images) > 1 and not takes.many:
            raise Refusal(400, f"image: {self.settings.name} takes one.", "image", "invalid_value")
        if body.mask and not takes.mask:
            raise Refusal(400, f"mask: {self.settings.name} takes none.", "mask", "invalid_value")
        if takes.mask and takes.needed and not body.mask:
            raise Refusal(400, f"mask: {self.settings.name} needs one, white where to draw.", "mask", "missing")
        if images := [opened(image, takes.mode, self.settings) for image in body.images]:
            arguments[takes.image] = images if takes.many else images[0]
        if takes.mask and body.mask:
            arguments[takes.mask] = opened(body.mask, "L", self.settings, "mask")
        return arguments

    def _check_words(self, asked: Asked) -> None:
        """Refuse what would have no effect: nothing asked for is ignored."""
        if asked.background == "transparent":
            raise Refusal(400, "background: this model draws no transparency.", "background", "invalid_value")
        if asked.output_compression not in (None, 100) and asked.output_format == "png":
            message = "output_compression: PNG loses nothing; ask for webp or jpeg."
            raise Refusal(400, message, "output_compression", "invalid_value")
        if asked.num_inference_steps is not None and asked.quality in QUALITIES:
            message = "quality: it means a number of steps, and num_inference_steps says another; send one of them."
            raise Refusal(400, message, "quality", "invalid_value")
        for name in () if self.is_video else ("num_frames", "fps", "seconds"):
            if name in asked.model_fields_set:
                raise Refusal(400, f"{name}: this model draws pictures.", name, "invalid_value")
        for name, _ in asked.loras:
            if name not in self.settings.loras:
                raise not_found("LoRA", name)

    def _call(self, asked: Asked) -> dict[str, Any]:
        """The arguments that the client set, in the order in which `ditmesh generate` writes them down."""
        width, height = self._size(asked)
        steps, own = asked.num_inference_steps, self.job.call.get("num_inference_steps")
        if asked.quality in QUALITIES:
            if own is None:
                raise Refusal(400, "quality: this model has no number of steps.", "quality", "invalid_value")
            steps = max(1, round(own * QUALITIES[asked.quality]))
        values = {**asked.model_dump(include={*NAMED}), "num_inference_steps": steps}
        arguments = given(
            prompt=asked.prompt,
            negative_prompt=values.pop("negative_prompt"),
            height=height,
            width=width,
            num_frames=self._frames(asked),
            **{name: values[name] for name in NAMED[1:]},
        )
        if asked.fps is not None and self.job.example.rate_argument:
            arguments[self.job.example.rate_argument] = asked.fps
        for name in arguments:
            if name not in self.takes:
                raise Refusal(400, f"{name}: a {self.job.example.pipeline} takes none.", name, "unknown_parameter")
        return arguments | {name: self._value(name, value) for name, value in asked.further.items()}

    def _value(self, name: str, value: Any) -> Any:
        """A further argument of the pipeline's call, which is a number or a switch."""
        kind = self.further.get(name)
        if kind is None:
            raise Refusal(400, f"{name}: there is no such parameter here.", name, "unknown_parameter")
        words = {"true": True, "false": False}
        if isinstance(value, str):  # of a form
            value = words.get(value.lower(), value) if kind is bool else _number(value)
        fits = (
            isinstance(value, bool) if kind is bool else isinstance(value, kind | int) and not isinstance(value, bool)
        )
        if not fits:
            raise Refusal(400, f"{name}: {value!r} is no {kind.__name__}.", name, "invalid_value")
        return value

    def _size(self, asked: Asked) -> tuple[int | None, int | None]:
        if asked.size == "auto":
            return asked.width, asked.height
        if asked.width is not None or asked.height is not None:
            raise Refusal(400, "size: width and height say it too; send one of them.", "size", "invalid_value")
        width, height = map(int, asked.size.split("x"))
        return width, height

    def _frames(self, asked: Asked) -> int | None:
        """The length of a video; of seconds, the nearest that the model draws as a whole."""
        if asked.seconds is None:
            return asked.num_frames
        if asked.num_frames is not None:
            raise Refusal(400, "seconds: num_frames says it too; send one of them.", "seconds", "invalid_value")
        own = (self.job.example.frames or 1) - 1
        unit = max((size for size in (8, 4, 2, 1) if own % size == 0), default=1)
        return max(1, round(asked.seconds * self.rate(asked) / unit)) * unit + 1

    def rate(self, asked: Asked) -> int:
        """Frames a second."""
        return asked.fps or self.job.example.fps

    def _check_cost(self, call: Mapping[str, Any]) -> None:
        width, height = call.get("width") or 1, call.get("height") or 1
        if width * height > self.settings.most_pixels:
            message = f"size: {width}x{height} is more than the {self.settings.most_pixels} pixels drawn here."
            raise Refusal(400, message, "size", "invalid_value")
        for name, most in (("num_inference_steps", MOST_STEPS), ("num_frames", MOST_FRAMES)):
            if (call.get(name) or 0) > most:
                raise Refusal(400, f"{name}: at most {most} are drawn here.", name, "invalid_value")

    def _seeds(self, asked: Asked) -> list[int]:
        """The noise of each picture: of one seed, as `ditmesh t2i` draws several pictures of a row."""
        if len(asked.seeds) > 1 or isinstance(asked.seed, list):
            if len(asked.seeds) != asked.n:
                message = f"seed: {len(asked.seeds)} seeds for {asked.n} pictures; send as many, or one."
                raise Refusal(400, message, "seed", "invalid_value")
            return list(asked.seeds)
        first = asked.seeds[0] if asked.seeds else secrets.randbelow(RANDOM_SEEDS)
        return [first, *(noise_seed(first, 0, image) for image in range(1, asked.n))]

    def _part(self, id: str, call: Mapping[str, Any], seed: int, body: Body, priority: int) -> Request:
        asked = body.asked
        names = tuple(image.name for image in body.images)
        job = replace(self.job, inputs=Inputs(names, body.mask and body.mask.name))
        facts = facts_of(job, call, seed)
        if asked.loras:
            facts["lora"] = ", ".join(f"{name} x {scale:g}" for name, scale in asked.loras)
        suffix = ".mp4" if self.is_video else SUFFIXES[asked.output_format]
        quality = asked.output_compression if suffix in (".jpg", ".webp") else None
        previews = 0 if self.is_video else asked.partial_images
        return Request(id, call, (seed,), (facts,), suffix, quality, asked.fps, priority, previews, asked.loras)


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
