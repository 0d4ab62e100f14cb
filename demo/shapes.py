"""Draw one coloured shape on a plain background, and say in words what was drawn."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass

import torch

PIXELS = 128
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS = {
    "red": (214, 40, 40),
    "orange": (247, 135, 20),
    "yellow": (245, 200, 30),
    "green": (45, 150, 70),
    "blue": (40, 95, 215),
    "purple": (135, 60, 175),
}
BACKGROUNDS = {
    "white": (250, 250, 250),
    "black": (22, 22, 26),
    "grey": (150, 152, 156),
    "pink": (250, 190, 210),
}
RADII = {"small": 18.0, "large": 32.0}  # pixels, half of the square a shape fills
# Where the middle of a shape lies, in steps of PLACE_STEP pixels from the middle of the picture: (right, down).
PLACES = {
    "in the centre": (0, 0),
    "on the left": (-1, 0),
    "on the right": (1, 0),
    "at the top": (0, -1),
    "at the bottom": (0, 1),
    "in the top left corner": (-1, -1),
    "in the top right corner": (1, -1),
    "in the bottom left corner": (-1, 1),
    "in the bottom right corner": (1, 1),
}
PLACE_STEP = 27.0
HELD_OUT_SHARE = 0.1


@dataclass(frozen=True)
class Scene:
    """What a picture shows, one word or phrase for each choice; `str(scene)` is its caption."""

    size: str
    colour: str
    shape: str
    place: str
    background: str

    def __str__(self) -> str:
        thing = article(f"{self.size} {self.colour} {self.shape}")
        return f"{thing} {self.place} on a {self.background} background"


def article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def split() -> tuple[list[Scene], list[Scene]]:
    """All scenes as (for training, held out), always the same: the combinations held out are never trained on."""
    scenes = [Scene(*words) for words in itertools.product(RADII, COLOURS, SHAPES, PLACES, BACKGROUNDS)]
    random.Random(0).shuffle(scenes)
    held_out = round(HELD_OUT_SHARE * len(scenes))
    return scenes[held_out:], scenes[:held_out]


def caption(scene: Scene, rng: random.Random) -> str:
    """One of several ways to say `scene`; one in four leaves a size, a place or a background unsaid."""
    size, place, ground = scene.size, scene.place, f"{scene.background} background"
    if rng.random() < 0.2:
        size = {"small": "little", "large": "big"}[size]
    if rng.random() < 0.3:
        place = place.replace("in the centre", rng.choice(("in the center", "in the middle"))).replace(" corner", "")
    unsaid = rng.choice(("size", "place", "background")) if rng.random() < 0.25 else None
    thing = article(f"{scene.colour} {scene.shape}" if unsaid == "size" else f"{size} {scene.colour} {scene.shape}")
    if unsaid != "place":
        thing = f"{thing} {place}"
    way = rng.random()
    if unsaid == "background":
        text = thing
    elif way < 0.7:
        text = f"{thing} on a {ground}"
    elif way < 0.85:
        text = f"{thing}, {ground}"
    else:
        text = f"a {ground} with {thing}"
    return text[0].upper() + text[1:] + "." if rng.random() < 0.1 else text


def draw(scenes: list[Scene], rng: random.Random | None = None) -> torch.Tensor:
    """Pictures of `scenes`, [B, 3, 128, 128] in -1..1; with `rng`, places and sizes vary by a few pixels."""
    jitters = [[rng.uniform(-1, 1) for _ in range(3)] if rng else [0.0, 0.0, 0.0] for _ in scenes]
    places = torch.tensor([PLACES[scene.place] for scene in scenes])
    jitter_B3 = torch.tensor(jitters)
    middle_B2 = PIXELS / 2 + PLACE_STEP * places + 3 * jitter_B3[:, :2]
    radius_B11 = (torch.tensor([RADII[scene.size] for scene in scenes]) + jitter_B3[:, 2])[:, None, None]
    pixel = torch.arange(PIXELS) + 0.5
    x_BHW = (pixel - middle_B2[:, :1])[:, None, :].expand(-1, PIXELS, -1) / radius_B11
    y_BHW = (pixel - middle_B2[:, 1:])[:, :, None].expand(-1, -1, PIXELS) / radius_B11
    distance_BHW = torch.empty(len(scenes), PIXELS, PIXELS)
    for shape in {scene.shape for scene in scenes}:
        here = [i for i, scene in enumerate(scenes) if scene.shape == shape]
        distance_BHW[here] = distance(shape, x_BHW[here], y_BHW[here])
    # One pixel wide edges: the share of a pixel that a straight edge at this distance covers.
    cover = (0.5 - distance_BHW * radius_B11).clamp(0, 1)[:, None]
    ink = torch.tensor([COLOURS[scene.colour] for scene in scenes])[:, :, None, None]
    paper = torch.tensor([BACKGROUNDS[scene.background] for scene in scenes])[:, :, None, None]
    return (paper + cover * (ink - paper)) / 127.5 - 1


def distance(shape: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Signed distance from (x, y) to the edge of `shape`, negative inside; the shape fills -1..1 both ways."""
    if shape == "circle":
        return torch.hypot(x, y) - 1
    if shape == "ring":
        return (torch.hypot(x, y) - 0.74).abs() - 0.26
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - 0.95
    if shape == "cross":
        wide, tall = (torch.maximum(x.abs() - a, y.abs() - b) for a, b in ((1, 0.33), (0.33, 1)))
        return torch.minimum(wide, tall)
    if shape == "triangle":
        return polygon_distance([(0, -1), (1, 0.85), (-1, 0.85)], x, y)
    if shape == "star":
        turns = [(math.pi * k / 5, 1.08 if k % 2 == 0 else 0.45) for k in range(10)]
        return polygon_distance([(r * math.sin(a), 0.09 - r * math.cos(a)) for a, r in turns], x, y)
    raise ValueError(f"no shape is called {shape!r}; there are {', '.join(SHAPES)}")


def polygon_distance(corners: list[tuple[float, float]], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Signed distance to a polygon: the nearest edge, and inside where a ray to the right crosses an odd number."""
    nearest = torch.full_like(x, float("inf"))
    inside = torch.zeros_like(x, dtype=torch.bool)
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        dx, dy = x1 - x0, y1 - y0
        along = (((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy)).clamp(0, 1)
        nearest = torch.minimum(nearest, torch.hypot(x - x0 - along * dx, y - y0 - along * dy))
        if y0 != y1:
            inside ^= ((y0 > y) != (y1 > y)) & (x < x0 + dx * (y - y0) / dy)
    return torch.where(inside, -nearest, nearest)
