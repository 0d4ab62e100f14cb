"""What a client asks for, as it stands in the body of its request: JSON or a form, of one shape."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect

from ditmesh.job.numbers import LARGEST, SEEDS
from ditmesh.serve.errors import Refusal, wrong_fields

FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
IMAGES, MASK = ("image", "image[]", "images", "input_reference"), ("mask",)
MANY = {"seed"}  # fields of a form that may stand there several times
AT_ONCE = 1 << 16  # bytes of JSON that are read without leaving the loop

Text = Annotated[str, StringConstraints(max_length=32_000)]
Count = Annotated[int, Field(ge=1, le=LARGEST)]
Seed = Annotated[int, Field(ge=0, lt=SEEDS)]
Scale = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Quality = Literal["auto", "low", "medium", "high", "standard", "hd"]


class AskedLora(BaseModel):
    """LoRA weights of the server's folder, and how much of them."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=200)
    scale: Annotated[float, Field(allow_inf_nan=False)] = 1.0


class Asked(BaseModel):
    """The fields of a request for pictures or a video; further ones may be arguments of the pipeline's call."""

    model_config = ConfigDict(extra="allow", str_strip_whitespace=False, protected_namespaces=())

    prompt: Text = Field(min_length=1)
    model: str | None = Field(None, max_length=300)
    n: Annotated[int, Field(ge=1, le=10)] = 1
    size: str = Field("auto", pattern=r"^(auto|[1-9]\d{0,5}x[1-9]\d{0,5})$")
    width: Count | None = None
    height: Count | None = None
    quality: Quality = "auto"
    output_format: Literal["png", "webp", "jpeg"] = "png"
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None
    background: Literal["auto", "opaque", "transparent"] = "auto"
    response_format: Literal["b64_json", "url"] = "b64_json"
    stream: bool = False
    partial_images: Annotated[int, Field(ge=0, le=3)] = 0
    moderation: Literal["auto", "low"] = "auto"
    user: str | None = Field(None, max_length=512)
    safety_identifier: str | None = Field(None, max_length=512)
    seed: Seed | list[Seed] | None = None
    negative_prompt: Text | None = None
    num_inference_steps: Count | None = None
    guidance_scale: Scale | None = None
    true_cfg_scale: Scale | None = None
    num_frames: Count | None = None
    fps: Count | None = None
    seconds: Annotated[float, Field(gt=0, le=3600)] | None = None
    lora: str | AskedLora | list[str | AskedLora] | None = None

    @field_validator("prompt", "negative_prompt")
    @classmethod
    def _is_text(cls, text: str | None) -> str | None:
        try:
            (text or "").encode()
        except UnicodeEncodeError as error:
            raise ValueError("half a character (a lone surrogate) is no text") from error
        return text

    @field_validator("lora", mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        """A form can hold an object only as JSON."""
        return json.loads(value) if isinstance(value, str) and value[:1] in ("{", "[") else value

    @property
    def seeds(self) -> Sequence[int]:
        return [self.seed] if isinstance(self.seed, int) else self.seed or []

    @property
    def loras(self) -> tuple[tuple[str, float], ...]:
        """Names and scales."""
        asked = self.lora if isinstance(self.lora, list) else [self.lora] if self.lora is not None else []
        return tuple((one, 1.0) if isinstance(one, str) else (one.name, one.scale) for one in asked)

    @property
    def further(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


@dataclass(frozen=True)
class Upload:
    """A picture that came with a request: its bytes, or where a client says that it is."""

    name: str
    content: bytes = b""
    url: str = ""


@dataclass(frozen=True)
class Body:
    """A request taken apart: its fields, and the pictures that go in."""

    asked: Asked
    images: tuple[Upload, ...] = ()
    mask: Upload | None = None


async def read_body(request: Request, most: int) -> Body:
    """What a request holds.

    Raises:
        Refusal: it is neither JSON nor a form, or a field is wrong.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    fields = await (_read_form(request, most) if kind in FORMS else read_json(request))
    return taken_apart(fields)


def taken_apart(fields: dict[str, Any]) -> Body:
    """Fields by name, pictures among them.

    Raises:
        Refusal: a field is wrong.
    """
    images = [image for name in IMAGES for image in _uploads(name, fields.pop(name, []))]
    masks = [image for name in MASK for image in _uploads(name, fields.pop(name, []))]
    if len(masks) > 1:
        raise Refusal(400, "mask: there can be one.", "mask", "invalid_value")
    try:
        asked = Asked.model_validate({name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        raise wrong_fields(error) from error
    return Body(asked, tuple(images), masks[0] if masks else None)


async def read_json(request: Request) -> dict[str, Any]:
    """The object that a request holds.

    Raises:
        Refusal: it holds none.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # which no page of another origin can send unasked
        raise Refusal(415, "The body has to be JSON; send `Content-Type: application/json`.", code="wrong_content_type")
    try:
        body = await request.body()
    except ClientDisconnect as error:
        raise Refusal(400, "The client left while it sent its request.") from error
    try:
        fields = json.loads(body) if len(body) < AT_ONCE else await asyncio.to_thread(json.loads, body)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"The body is no JSON: {error}.", code="invalid_json") from error
    if not isinstance(fields, dict):
        raise Refusal(400, "The body is JSON, but no object.", code="invalid_json")
    return fields


async def _read_form(request: Request, most: int) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    try:
        async with request.form(max_files=16, max_fields=100, max_part_size=most) as form:
            for name, value in form.multi_items():
                if isinstance(value, UploadFile):
                    held = Upload(value.filename or name, await value.read())
                    fields.setdefault(name, []).append(held)
                elif name in (*IMAGES, *MASK):
                    fields.setdefault(name, []).append(value)
                elif name.removesuffix("[]") in MANY:
                    fields.setdefault(name.removesuffix("[]"), []).append(value)
                else:
                    fields[name] = value
    except ClientDisconnect as error:
        raise Refusal(400, "The client left while it sent its request.") from error
    if isinstance(seeds := fields.get("seed"), list):
        fields["seed"] = seeds[0] if len(seeds) == 1 else seeds
    return fields


def _uploads(name: str, given: Any) -> list[Upload]:
    """Pictures of a field: files of a form, or texts that are URLs or hold the picture themselves."""
    found = []
    for one in given if isinstance(given, list) else [given]:
        text = one.get("image_url") if isinstance(one, dict) else one
        if isinstance(text, str):
            found.append(Upload(name, url=text))
        elif isinstance(text, Upload):
            found.append(text)
        elif text is not None:
            raise Refusal(400, f"{name}: it is neither a file nor a URL.", name, "invalid_value")
    return found
