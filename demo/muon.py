"""Muon (Jordan et al. 2024): momentum whose matrices are made orthogonal; it needs far fewer steps than AdamW here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch


class Muon(torch.optim.Optimizer):
    """For weight matrices inside of blocks only; `lr` is the spectral norm of a square matrix's step."""

    def __init__(self, matrices: Iterable[torch.nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            alike = defaultdict(list)
            for parameter in group["params"]:
                alike[parameter.shape].append(parameter)
            for (rows, columns), parameters in alike.items():
                moved = torch.stack([self.momentum(parameter, group["momentum"]) for parameter in parameters])
                size = group["lr"] * max(1.0, rows / columns) ** 0.5
                for parameter, direction in zip(parameters, orthogonal(moved), strict=True):
                    parameter.sub_(direction, alpha=size)

    def momentum(self, parameter: torch.nn.Parameter, keep: float) -> torch.Tensor:
        state = self.state[parameter]
        if "mean" not in state:
            state["mean"] = torch.zeros_like(parameter)
        state["mean"].lerp_(parameter.grad, 1 - keep)
        return parameter.grad.lerp(state["mean"], keep)


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """[N, rows, columns], each nearly orthogonal: five Newton-Schulz steps with the paper's coefficients."""
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonal(matrices.mT).mT
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x
