"""A picture as a file that says how it was made."""

import io
import json
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ditmesh.job.call import given
from ditmesh.job.description import Job
from ditmesh.job.images import WEB

JPEG_COMMENT = 65000  # bytes, at most
DESCRIPTION = 0x010E  # the EXIF tag ImageDescription


def facts_of(job: Job, call: Mapping[str, object], seed: int) -> dict[str, object]:
    """What a picture of this call and seed was made from; enough to draw it again."""
    takes = job.example.images
    opened = (takes.image, takes.mask) if takes else ()
    settings = {name: value for name, value in call.items() if name not in ("prompt", *opened)}
    facts = {"prompt": call.get("prompt"), "seed": seed, "settings": settings, "model": job.model}
    return facts | given(
        images=[without_query(image) for image in job.inputs.images] or None,
        mask=job.inputs.mask and without_query(job.inputs.mask),
        lora=job.lora and job.lora.file.name,
        quantized=job.quantized and job.quantized.tag,
        layout=str(replace(job.layout, dp_size=1)),
        cache=job.cache and job.cache.tag,
        attention=job.kernel,
        software="ditmesh",
    )


def without_query(image: str) -> str:
    """A file, or a URL without what may be a secret."""
    return image.partition("?")[0] if image.startswith(WEB) else image


def encode(pixels: np.ndarray, suffix: str, facts: Mapping[str, object], quality: int | None = None) -> bytes:
    """[height, width, 3 or 4] in [0, 1] as a PNG, JPEG or WebP file, with the facts as its metadata.

    The quality is of a JPEG or WebP file, up to 100.
    """
    image = Image.fromarray(to_bytes(pixels))
    file = io.BytesIO()
    if suffix == ".png":
        texts = PngInfo()
        for name, value in facts.items():
            texts.add_itxt(name, value if isinstance(value, str) else as_json(value))
        image.save(file, "PNG", pnginfo=texts)
    elif suffix == ".webp":
        exif = Image.Exif()
        exif[DESCRIPTION] = as_json(facts)
        image.save(file, "WEBP", exif=exif, **given(quality=quality))
    else:
        comment = as_json(facts).encode()[:JPEG_COMMENT]
        image.convert("RGB").save(file, "JPEG", quality=quality or 95, comment=comment)
    return file.getvalue()


def to_bytes(values: np.ndarray) -> np.ndarray:
    """[0, 1] to 0 ... 255."""
    return (values.clip(0, 1) * 255).round().astype(np.uint8)


def as_json(facts: object) -> str:
    """Facts as a text; what JSON has no word for, as Python writes it."""
    return json.dumps(facts, ensure_ascii=False, default=repr)
