"""What a stream is expected to be at a later step, from what it was at computed ones."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from ditmesh.config import CalibratorConfig

Total = Callable[[Tensor], Tensor]  # a tensor summed over the ranks that share the sequence


class Forecast(Protocol):
    """What a stream is expected to be."""

    def update(self, step: int, value: Tensor) -> None:
        """Take in what it was at a computed step."""
        ...

    def at(self, step: int) -> Tensor:
        """What it may be at a later step."""
        ...


class Repeat:
    """As it was last."""

    def update(self, step: int, value: Tensor) -> None:
        self.value = value

    def at(self, step: int) -> Tensor:
        return self.value


def is_forecast(calibrator: CalibratorConfig, main: bool) -> bool:
    """Whether the main stream, or another one, is calibrated."""
    return calibrator.enable_calibrator if main else calibrator.enable_encoder_calibrator


def build_forecast(calibrator: CalibratorConfig | None, main: bool, total: Total) -> Forecast:
    """The forecast of the main stream, or of another one."""
    if calibrator is None or not is_forecast(calibrator, main):
        return Repeat()
    return calibrator.own.forecast(total)
