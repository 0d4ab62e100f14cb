"""FoCa: forecast, then calibrate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ditmesh.config.cache import CalibratorConfig

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class FoCaCalibratorConfig(CalibratorConfig):
    """Forecast by a BDF2 step, then calibrate it by Heun's rule: https://arxiv.org/abs/2508.16211."""

    title: ClassVar[str] = "FoCa"
    flag: ClassVar[tuple[str, str]] = ("Extrapolate by FoCa.", "--foca")

    enable_calibrator: bool = True
    enable_encoder_calibrator: bool = True
    calibrator_type: str = "foca"

    def forecast(self, total: object) -> FoCa:
        return FoCa()


class FoCa:
    """Forecast by a BDF2 step over uneven steps, then calibrate by Heun's rule: https://arxiv.org/abs/2508.16211.

    With values F0, F1, F2 at the last steps t0 > t1 > t2, f(t) the line through the slopes between them, h = t - t0 and
    r = h / (t0 - t1): the forecast is P = ((1 + r)^2 F0 - r^2 F1 + h (1 + r) f(t)) / (1 + 2r), and the calibrated value
    F0 + h/2 (f(t0) + (P - F0) / h).
    """

    def __init__(self) -> None:
        self.past: list[tuple[int, Tensor]] = []

    def update(self, step: int, value: Tensor) -> None:
        self.past = [(step, value), *self.past[:2]]

    def at(self, step: int) -> Tensor:
        (t0, newest), *older = self.past
        if not older:
            return newest
        t1, before = older[0]
        ahead, width = step - t0, t0 - t1
        slope = (newest - before) / width
        bend: Tensor | float = 0.0
        if len(older) > 1:
            t2, first = older[1]
            bend = (slope - (before - first) / (t1 - t2)) * 2 / (t0 - t2)
        slope_here, slope_there = slope + bend * (width / 2), slope + bend * (ahead + width / 2)
        ratio = ahead / width
        forecast = (1 + ratio) ** 2 * newest - ratio**2 * before + ahead * (1 + ratio) * slope_there
        forecast = forecast / (1 + 2 * ratio)
        return newest + ahead / 2 * slope_here + (forecast - newest) / 2
