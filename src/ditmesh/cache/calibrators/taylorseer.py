"""TaylorSeer: extrapolate by finite differences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ditmesh.config.cache import CalibratorConfig, check_count, setting

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TaylorSeerCalibratorConfig(CalibratorConfig):
    """Extrapolate by finite differences: https://arxiv.org/abs/2503.06923. ``taylorseer_order`` is the polynomial's."""

    title: ClassVar[str] = "TaylorSeer"
    flag: ClassVar[tuple[str, str]] = ("Extrapolate what is left out, by TaylorSeer.", "--taylorseer")

    enable_calibrator: bool = True
    enable_encoder_calibrator: bool = True
    taylorseer_order: int = setting(1, "Its polynomial's (1).", "--taylorseer-order N", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("taylorseer_order", self.taylorseer_order, 1)

    @property
    def tag(self) -> str:
        return f"T1O{self.taylorseer_order}"

    def forecast(self, total: object) -> TaylorSeer:
        return TaylorSeer(self.taylorseer_order)


class TaylorSeer:
    """Finite differences d_0 = Y, d_(i+1) = (d_i - d_i of the time before) / steps between; then the Taylor sum.

    Y(step + n) = sum of d_i n^i / i! up to the order: https://arxiv.org/abs/2503.06923.
    """

    def __init__(self, order: int):
        self.order = order
        self.step = 0
        self.differences: list[Tensor] = []

    def update(self, step: int, value: Tensor) -> None:
        differences = [value]
        for before in self.differences[: self.order]:
            differences.append((differences[-1] - before) / (step - self.step))
        self.step, self.differences = step, differences

    def at(self, step: int) -> Tensor:
        ahead, factor = step - self.step, 1.0
        value = self.differences[0].clone()
        for i, difference in enumerate(self.differences[1:], start=1):
            factor *= ahead / i
            value.add_(difference, alpha=factor)
        return value
