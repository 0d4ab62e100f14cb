"""Dynamic mode decomposition: go on with the exponentials that fit the last steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ditmesh.cache.calibrators.taylorseer import TaylorSeer
from ditmesh.config.cache import CalibratorConfig, check_choice, check_count, setting

if TYPE_CHECKING:
    from torch import Tensor

WEIGHT = {"low": 1e-4, "medium": 1e-6, "high": 1e-8}  # eigenvalues below this share of the largest are noise


@dataclass(frozen=True)
class DMDCalibratorConfig(CalibratorConfig):
    """Go on with the exponentials that fit the last steps best (dynamic mode decomposition, or Prony's method).

    Attributes:
        dmd_history: how many computed steps the fit sees, at least 4.
        dmd_rank: how many exponentials, 0 for as many as carry weight.
        dmd_ridge: added to the fit's normal equations, relative to their size.
        dmd_svd_precision: ``"low"``, ``"medium"`` or ``"high"``: what counts as weight, from 1e-4 to 1e-8.
    """

    title: ClassVar[str] = "DMD"
    flag: ClassVar[tuple[str, str]] = ("Extrapolate by dynamic mode decomposition.", "--dmd")

    enable_calibrator: bool = True
    enable_encoder_calibrator: bool = True
    calibrator_type: str = "dmd"
    dmd_history: int = setting(6, "Steps that it looks at (6).", "--dmd-history N", low=4)
    dmd_rank: int = 0
    dmd_ridge: float = 1e-8
    dmd_svd_precision: str = setting("medium", "low, medium, high.", "--dmd-svd, --dmd-svd-precision NAME")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("dmd_history", self.dmd_history, 4)
        check_count("dmd_rank", self.dmd_rank, 0)
        check_choice("dmd_svd_precision", self.dmd_svd_precision, tuple(WEIGHT))

    def forecast(self, total: Callable[[Tensor], Tensor]) -> DMD:
        return DMD(self.dmd_history, self.dmd_rank, self.dmd_ridge, WEIGHT[self.dmd_svd_precision], total)


class DMD:
    """Go on with the exponentials that fit the last evenly spaced steps best: Prony's method, or DMD by snapshots.

    The fit sees only the snapshots' inner products, summed over all ranks, so that each finds the same numbers whatever
    it holds. Before there are four snapshots at even distances it is a TaylorSeer of order 1.
    """

    def __init__(self, history: int, rank: int, ridge: float, least: float, total: Callable[[Tensor], Tensor]):
        self.history, self.rank, self.ridge, self.least = history, rank, ridge, least
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
        import torch

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
    import torch

    values, vectors = torch.linalg.eig(matrix)
    return (vectors * values[:, None] ** exponent @ torch.linalg.pinv(vectors)).real
