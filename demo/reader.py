"""Read a picture by rule: which shape it shows, how large, in which colour, where, and on which background."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from demo.shapes import BACKGROUNDS, COLOURS, PIXELS, PLACE_STEP, PLACES, RADII, SHAPES, Scene, distance, draw

UNCLEAR = "unclear"
FURTHEST_COLOUR = 60.0  # of 441: further from every colour of the palette than this is no colour we know
SMALLEST_SHAPE = 60  # pixels; fewer are specks
LEAST_LIKENESS = 0.65  # the share of both areas, read and drawn, that must be common; less is no shape we know
TEMPLATE_PIXELS = 48


@dataclass(frozen=True)
class Reading:
    """What a picture shows, in the words of `Scene`, or "unclear"."""

    size: str
    colour: str
    shape: str
    place: str
    background: str


def read(picture: torch.Tensor) -> Reading:
    """`picture` is [3, 128, 128] in 0..255; nothing else is known about it."""
    sides = (picture[:, :3], picture[:, -3:], picture[:, :, :3], picture[:, :, -3:])
    paper = torch.cat([side.flatten(1) for side in sides], dim=1).median(dim=1).values
    background = nearest_colour(paper, BACKGROUNDS)
    away = (picture - paper[:, None, None]).norm(dim=0)
    inked = away > 40
    if inked.sum() < SMALLEST_SHAPE:
        return Reading(UNCLEAR, UNCLEAR, UNCLEAR, UNCLEAR, background)
    # The ink is what most inked pixels look like; an edge pixel belongs to the shape if it is more ink than paper.
    ink = picture[:, inked].median(dim=1).values
    share = ((picture - paper[:, None, None]) * (ink - paper)[:, None, None]).sum(0) / (ink - paper).square().sum()
    mask = share > 0.5
    if mask.sum() < SMALLEST_SHAPE:
        return Reading(UNCLEAR, UNCLEAR, UNCLEAR, UNCLEAR, background)
    left, right, top, bottom = box(mask)
    half = max(right - left, bottom - top) / 2
    size = min(RADII, key=lambda name: abs(RADII[name] - half))
    middle = torch.tensor([(left + right) / 2, (top + bottom) / 2])
    shape = nearest_shape(mask[top:bottom, left:right])
    return Reading(size, nearest_colour(ink, COLOURS), shape, nearest_place(middle), background)


def box(mask: torch.Tensor) -> tuple[int, int, int, int]:
    """Left, right, top and bottom of a mask, in pixels, the far ends excluded."""
    across, down = (mask.any(dim=dim).nonzero().flatten() for dim in (0, 1))
    return int(across[0]), int(across[-1]) + 1, int(down[0]), int(down[-1]) + 1


def nearest_colour(colour: torch.Tensor, palette: dict[str, tuple[int, int, int]]) -> str:
    far = {name: (colour - torch.tensor(known)).norm().item() for name, known in palette.items()}
    name = min(far, key=far.__getitem__)
    return name if far[name] < FURTHEST_COLOUR else UNCLEAR


def nearest_place(middle: torch.Tensor) -> str:
    steps = (middle - PIXELS / 2) / PLACE_STEP
    return min(PLACES, key=lambda place: (steps - torch.tensor(PLACES[place])).norm().item())


def template(shape: str) -> torch.Tensor:
    """The shape, as large as its bounding box."""
    fine = (torch.arange(256) + 0.5) / 128 - 1
    mask = distance(shape, *torch.meshgrid(fine, fine, indexing="xy")) < 0
    left, right, top, bottom = box(mask)
    return stretched(mask[top:bottom, left:right])


def stretched(mask: torch.Tensor) -> torch.Tensor:
    """Any mask on a grid of 48 x 48, as shares."""
    return torch.nn.functional.interpolate(mask[None, None].float(), (TEMPLATE_PIXELS,) * 2, mode="area")[0, 0]


TEMPLATES = {shape: template(shape) for shape in SHAPES}


def nearest_shape(mask: torch.Tensor) -> str:
    """The shape with most area in common with `mask`, both stretched to their bounding boxes."""
    seen = stretched(mask)
    like = {shape: likeness(seen, known) for shape, known in TEMPLATES.items()}
    shape = max(like, key=like.__getitem__)
    return shape if like[shape] > LEAST_LIKENESS else UNCLEAR


def likeness(seen: torch.Tensor, known: torch.Tensor) -> float:
    """Common area over joint area."""
    return (torch.minimum(seen, known).sum() / torch.maximum(seen, known).sum()).item()


def misread_drawings(scenes: list[Scene]) -> list[tuple[Scene, Reading]]:
    """The reader's own test: drawings whose reading differs from what was drawn."""
    pictures = ((draw(scenes) + 1) * 127.5).round()
    readings = [read(picture) for picture in pictures]
    return [(scene, reading) for scene, reading in zip(scenes, readings, strict=True) if vars(scene) != vars(reading)]
