"""Show the pictures of an output folder: a contact sheet, and a page."""

import html
import io
from collections.abc import Iterator, Sequence
from itertools import islice
from math import ceil, sqrt
from pathlib import Path
from urllib.parse import quote

from PIL import Image, ImageDraw, ImageFont

from ditmesh.batch.folder import MANIFEST, PAGE, SHEET
from ditmesh.batch.manifest import Record, records
from ditmesh.batch.writer import write

MOST = 400  # pictures shown; more make no page that anyone reads
CELL, MARGIN, LABEL = 160, 8, 18
LETTERS = 24
STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem; color: #222; background: #fff }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 1.2rem }
figure { margin: 0 } img { width: 100%; height: auto; background: #eee } figcaption { overflow-wrap: anywhere }
small { color: #666 }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818 } small { color: #999 } }
"""


def show(folder: Path) -> list[Path]:
    """Write the contact sheet and the page of what the manifest lists; return their paths."""
    left = (record for _, record in records(folder / MANIFEST))
    listed = list(islice(left, MOST))
    if not listed:
        return []
    total, file = len(listed) + sum(1 for _ in left), io.BytesIO()
    contact_sheet(folder, listed, total).save(file, "PNG")
    write(folder, SHEET, file.getvalue())
    write(folder, PAGE, "".join(page(listed, total)).encode())
    return [folder / SHEET, folder / PAGE]


def _note(shown: int, total: int) -> str:
    pictures = "1 picture" if total == 1 else f"{total} pictures"
    return pictures if shown == total else f"the first {shown} of {pictures}; {MANIFEST} lists them all"


def contact_sheet(folder: Path, listed: Sequence[Record], total: int) -> Image.Image:
    """Thumbnails in rows, each with its file's name."""
    columns = min(20, ceil(sqrt(len(listed))))
    rows = ceil(len(listed) / columns)
    width, height = CELL + MARGIN, CELL + LABEL + MARGIN
    sheet = Image.new("RGB", (max(columns * width + MARGIN, 3 * CELL), rows * height + MARGIN + LABEL), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    pen.text((MARGIN, 4), _note(len(listed), total), fill="#555555", font=font)
    for i, record in enumerate(listed):
        left, top = MARGIN + i % columns * width, LABEL + MARGIN + i // columns * height
        picture = _thumbnail(folder / record["file"])
        sheet.paste(picture, (left + (CELL - picture.width) // 2, top + (CELL - picture.height) // 2))
        pen.text((left, top + CELL + 2), _short(record["file"]), fill="black", font=font)
    return sheet


def _thumbnail(path: Path) -> Image.Image:
    """The picture, small; grey if it is none any more."""
    try:
        with Image.open(path) as picture:
            picture.thumbnail((CELL, CELL))
            return picture.convert("RGB")
    except (OSError, SyntaxError, ValueError):  # what Pillow says of files that are broken
        return Image.new("RGB", (CELL, CELL), "#dddddd")


def _short(name: str) -> str:
    """What fits under a thumbnail, in letters that the built-in font has."""
    name = name.encode("ascii", "replace").decode()
    return name if len(name) <= LETTERS else f"{name[: LETTERS - 3]}..."


def page(listed: Sequence[Record], total: int) -> Iterator[str]:
    """The page, piece by piece; the pictures are loaded when they are scrolled to."""
    yield f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{_note(total, total)}</title>\n'
    yield f'<meta name="viewport" content="width=device-width">\n<style>{STYLE}</style>\n'
    yield f"<p>{_note(len(listed), total)}</p>\n<main>\n"
    for record in listed:
        prompt, name = html.escape(record["prompt"]), html.escape(record["file"])
        link = html.escape(quote(record["file"]))
        yield f'<figure><a href="{link}"><img loading="lazy" src="{link}" alt="{prompt}"></a>'
        yield f"<figcaption>{prompt}<br><small>{name}, seed {record['noise_seed']}</small></figcaption></figure>\n"
    yield "</main>\n"
