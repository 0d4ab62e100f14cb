"""Guess a tensor at a later step from what it was at computed ones; in float32, since differences cancel digits."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from ditmesh.config import CalibratorConfig

Total = Callable[[Tensor], Tensor]  # a tensor summed over the ranks that share the sequence
WEIGHT = {"low": 1e-4, "medium": 1e-6, "high": 1e-8}  # eigenvalues below this share of the largest are noise


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


class DMD:
    """Go on with the exponentials that fit the last evenly spaced steps best: Prony's method, or DMD by snapshots.

    The fit sees only the snapshots' inner products, summed over all ranks, so that each finds the same numbers whatever
    it holds. Before there are four snapshots at even distances it is a TaylorSeer of order 1.
    """

    def __init__(self, history: int, rank: int, ridge: float, svd_precision: str, total: Total):
        self.history, self.rank, self.ridge, self.least = history, rank, ridge, WEIGHT[svd_precision]
        self.total = total
        self.start = TaylorSeer(order=1)
        self.past: list[tuple[int, Tensor]] = []
        self.flow: Tensor | None = None

    def update(self, step: int, value: Tensor) -> None:
        self.start.update(step, value)
        if len(self.past) > 1 and step - self.past[-1][0] != self.past[-1][0] - self.past[-2][0]:
            self.past = self.past[-1:]
        self.past = [*self.past, (step, value)][-self.history :]
        self.flow = None

    def at(self, step: int) -> Tensor:
        if len(self.past) < 4:
            return self.start.at(step)
        if self.flow is None:
            self.flow = self._fit()
        newest, width = self.past[-1][0], self.past[-1][0] - self.past[-2][0]
        # A column says how much of each snapshot but the last there is in what becomes of one of them.
        change = (_power(self.flow, 1 + (step - newest) / width) - self.flow)[..., -1]
        value = self.past[-1][1].clone()
        for i, (_, snapshot) in enumerate(self.past[:-1]):
            weight = change[:, i].to(value.device, value.dtype)
            value += weight.view(-1, *[1] * (value.ndim - 1)) * snapshot
        return value

    def _fit(self) -> Tensor:
        """The companion matrix that takes each snapshot to the next, [B, n, n] for n snapshots but the last."""
        flat = torch.stack([value.flatten(1).double() for _, value in self.past], dim=1)
        products = self.total(flat @ flat.mT).cpu()
        known, target = products[:, :-1, :-1], products[:, :-1, -1:]
        size, axes = torch.linalg.eigh(known)
        keep = size > self.least * size[:, -1:]
        if self.rank:
            keep[:, : -self.rank] = False
        inverse = torch.where(keep, 1 / (size + self.ridge * size[:, -1:]), 0.0)
        share = axes @ (inverse[..., None] * (axes.mT @ target))
        flow = torch.zeros_like(known)
        flow[:, 1:, :-1] = torch.eye(known.shape[-1] - 1, dtype=known.dtype)
        flow[..., -1:] = share
        return flow


def _power(matrix: Tensor, exponent: float) -> Tensor:
    """A real power of each matrix [B, n, n]."""
    values, vectors = torch.linalg.eig(matrix)
    return (vectors * values[:, None] ** exponent @ torch.linalg.pinv(vectors)).real


def is_forecast(calibrator: CalibratorConfig, main: bool) -> bool:
    """Whether the main stream, or another one, is calibrated."""
    return calibrator.enable_calibrator if main else calibrator.enable_encoder_calibrator


def build_forecast(calibrator: CalibratorConfig | None, main: bool, total: Total) -> Forecast:
    """The forecast of the main stream, or of another one."""
    if calibrator is None or not is_forecast(calibrator, main):
        return Repeat()
    settings: dict[str, Any] = {name.partition("_")[2]: value for name, value in calibrator.settings.items()}
    if calibrator.calibrator_type == "taylorseer":
        return TaylorSeer(**settings)
    return FoCa() if calibrator.calibrator_type == "foca" else DMD(**settings, total=total)
