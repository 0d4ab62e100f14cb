"""The numbers a picture can be drawn with: one set of limits, for the flags of every verb and for rows of a file."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

SEEDS, LARGEST, IMAGES = 2**63, 2**53, 1000
SIDES = ("height", "width")


def count(value: int) -> int:
    """At least one, and a number that a JSON file can hold."""
    return _between(value, 1, LARGEST)


def scale(value: float) -> float:
    """How far to lean on something: finite, and never away from it."""
    return _finite(_between(value, 0, math.inf))


def images(value: int) -> int:
    """How many pictures of one prompt."""
    return _between(value, 1, IMAGES)


def seed(value: int) -> int:
    """What a generator can be seeded with."""
    return _between(value, 0, SEEDS - 1)


def _between(value: float, low: float, high: float) -> Any:
    if not value >= low:
        raise ValueError(f"input should be greater than or equal to {low}")
    if value > high:
        raise ValueError(f"input should be less than or equal to {high}")
    return value


LIMITS: Mapping[str, Callable[[Any], Any]] = {
    **dict.fromkeys((*SIDES, "num_inference_steps", "num_frames"), count),
    "num_images_per_prompt": images,
    "residual_diff_threshold": scale,
    **dict.fromkeys(("seed", "warmup_seed"), seed),
}


def check_numbers(arguments: Mapping[str, object], smallest_side: int = 1) -> None:
    """Refuse numbers that no picture can be drawn with, among arguments of the pipeline's call.

    Raises:
        ValueError: which, and why.
    """
    for name, value in arguments.items():
        judge = LIMITS.get(name) or (scale if "scale" in name else _finite)
        numbers = cast(Sequence[Any], value) if isinstance(value, list | tuple) else [value]
        for number in numbers:
            if isinstance(number, bool) or not isinstance(number, int | float):
                continue
            try:
                judge(number)
            except ValueError as error:
                raise ValueError(f"{name}: {error} ({number!r}).") from error
    for name in SIDES:
        side = arguments.get(name)
        if isinstance(side, int) and side < smallest_side:
            raise ValueError(
                f"{name}: {side} pixels are fewer than the {smallest_side} that become one token of this model; "
                f"use {smallest_side} or more."
            )


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("input should be a finite number")
    return value
