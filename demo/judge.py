"""Score the demonstration model on captions it was never trained on: `python -m demo.judge`.

It prints the share of pictures whose colour, background, place, size and shape read as the caption says, and writes a
contact sheet of the first pictures. A hundred captions take half a minute on two idle cores. With --cache the pictures
are drawn with a cache, and no sheet is written unless --sheet names one.
"""

from __future__ import annotations

import argparse
import random
import textwrap
from dataclasses import fields
from pathlib import Path

import numpy
import torch
from diffusers import FluxPipeline
from PIL import Image, ImageDraw, ImageFont

import ditmesh
from demo.reader import Reading, misread_drawings, read
from demo.shapes import PIXELS, Scene, split
from demo.words import CAPTION_TOKENS
from ditmesh import DBCacheConfig, TaylorSeerCalibratorConfig

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "src" / "ditmesh" / "demo_model"
SHEET = ROOT / "docs" / "demo_contact_sheet.png"
BATCH = 10


def pictures(pipe: FluxPipeline, captions: list[str], steps: int, guidance: float, seed: int) -> torch.Tensor:
    """[B, 3, 128, 128] in 0..255; caption i starts from the noise of seed + i."""
    drawn = []
    for begin in range(0, len(captions), BATCH):
        batch = captions[begin : begin + BATCH]
        made = pipe(
            prompt=batch,
            negative_prompt=[""] * len(batch),
            true_cfg_scale=guidance,
            guidance_scale=0.0,
            height=PIXELS,
            width=PIXELS,
            num_inference_steps=steps,
            max_sequence_length=CAPTION_TOKENS,
            generator=[torch.Generator().manual_seed(seed + begin + i) for i in range(len(batch))],
            output_type="np",
        ).images
        drawn.append(torch.from_numpy(numpy.ascontiguousarray(made)).permute(0, 3, 1, 2) * 255)
    return torch.cat(drawn)


def scores(scenes: list[Scene], readings: list[Reading]) -> dict[str, float]:
    """Share of readings that agree with the caption, for each of its words and for all of them at once."""
    agree = [
        {f.name: getattr(s, f.name) == getattr(r, f.name) for f in fields(Scene)}
        for s, r in zip(scenes, readings, strict=True)
    ]
    shares = {f.name: sum(a[f.name] for a in agree) / len(agree) for f in fields(Scene)}
    return shares | {"all": sum(all(a.values()) for a in agree) / len(agree)}


def contact_sheet(made: torch.Tensor, scenes: list[Scene], readings: list[Reading], across: int = 8) -> Image.Image:
    """Pictures in rows, their captions below; a caption is red, with what was read instead, where they disagree."""
    side, gap, text_height = PIXELS + 32, 20, 78
    down = -(-len(made) // across)
    size = (across * (side + gap) + gap, down * (side + text_height) + gap)
    sheet = Image.new("RGB", size, (246, 246, 248))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for i, (picture, scene, reading) in enumerate(zip(made, scenes, readings, strict=True)):
        left, top = gap + i % across * (side + gap), gap + i // across * (side + text_height)
        pixels = picture.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
        sheet.paste(Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS), (left, top))
        pen.rectangle((left - 1, top - 1, left + side, top + side), outline=(200, 202, 208))
        wrong = [getattr(reading, f.name) for f in fields(Scene) if getattr(reading, f.name) != getattr(scene, f.name)]
        text = str(scene) + (f" (read: {', '.join(wrong)})" if wrong else "")
        ink = (196, 40, 40) if wrong else (52, 56, 64)
        pen.multiline_text((left, top + side + 6), textwrap.fill(text, 25), fill=ink, font=font, spacing=3)
    return sheet


def cached(pipe: FluxPipeline, threshold: float | None, taylorseer: bool) -> None:
    """Enable the cache of `ditmesh generate --cache`, with this threshold, unless there is none."""
    if threshold is None:
        return
    config = DBCacheConfig(
        Fn_compute_blocks=1, max_continuous_cached_steps=3, residual_diff_threshold=threshold, max_warmup_steps=8
    )
    forecast = TaylorSeerCalibratorConfig() if taylorseer else None
    ditmesh.enable_cache(pipe, cache_config=config, calibrator_config=forecast)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL, help="folder of the saved pipeline")
    parser.add_argument("--count", type=int, default=100, help="held-out captions to draw")
    parser.add_argument("--steps", type=int, default=28, help="denoising steps")
    parser.add_argument("--guidance", type=float, default=3.0, help="true_cfg_scale")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", type=Path, help="where the contact sheet goes (docs, but not with --cache)")
    parser.add_argument("--shown", type=int, default=40, help="pictures on the contact sheet")
    parser.add_argument("--cache", type=float, metavar="THRESHOLD", help="draw with a cache of this threshold")
    parser.add_argument("--taylorseer", action="store_true", help="and forecast its cached steps")
    options = parser.parse_args()
    if options.taylorseer and options.cache is None:
        parser.error("--taylorseer forecasts cached steps; add --cache 0.24")
    return options


def main() -> None:
    options = parse()
    scenes = random.Random(options.seed).sample(split()[1], options.count)
    misread = misread_drawings(scenes)
    print(f"the reader misreads {len(misread)} of these {len(scenes)} scenes when they are drawn")
    pipe = FluxPipeline.from_pretrained(str(options.model))
    pipe.set_progress_bar_config(disable=True)
    cached(pipe, options.cache, options.taylorseer)
    made = pictures(pipe, [str(scene) for scene in scenes], options.steps, options.guidance, options.seed)
    readings = [read(picture) for picture in made]
    for name, share in scores(scenes, readings).items():
        print(f"{name:<12}{share:6.1%}")
    for scene, reading in zip(scenes, readings, strict=True):
        if vars(scene) != vars(reading):
            print(f"  {scene}: read as {', '.join(vars(reading).values())}")
    if options.cache is not None:
        stats = ditmesh.summary(pipe)
        run, total = sum(one.blocks_run for one in stats), sum(one.blocks_total for one in stats)
        print(f"of the last batch {1 - run / total:.1%} of the block calls were left out")
    sheet = options.sheet or (SHEET if options.cache is None else None)
    if sheet:
        sheet.parent.mkdir(parents=True, exist_ok=True)
        shown = options.shown
        contact_sheet(made[:shown], scenes[:shown], readings[:shown]).save(sheet, optimize=True)


if __name__ == "__main__":
    main()
