"""What the calibrators foresee, where it is known what comes."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ditmesh import DMDCalibratorConfig, FoCaCalibratorConfig, TaylorSeerCalibratorConfig
from ditmesh.cache.forecast import Forecast, build_forecast
from ditmesh.config import CalibratorConfig, ParallelismConfig
from ditmesh.runtime.collectives import all_reduce
from ditmesh.runtime.mesh import build_mesh, sequence_mesh
from tests.ranks import Ranks


def build(config: CalibratorConfig) -> Forecast:
    return build_forecast(config, True, lambda x: x)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_taylorseer_is_exact_for_what_its_differences_see(order: int) -> None:
    forecast = build(TaylorSeerCalibratorConfig(taylorseer_order=order))
    values = torch.randn(2, 3, 4, dtype=torch.float64)
    slope = torch.randn(2, 3, 4, dtype=torch.float64)
    for step in range(order + 1):
        forecast.update(step, values + slope * step)
    for step in range(order + 1, order + 4):
        torch.testing.assert_close(forecast.at(step), values + slope * step)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_taylorseer_is_the_sum_of_backward_differences(order: int) -> None:
    """Y(t + n) = sum of (backward difference of order i) n^i / i!, here of t^order."""
    forecast = build(TaylorSeerCalibratorConfig(taylorseer_order=order))
    steps = list(range(order + 2))
    for step in steps:
        forecast.update(step, torch.tensor([float(step**order)], dtype=torch.float64))
    column = [float(step**order) for step in steps]
    want, ahead, factor = 0.0, 2, 1.0
    for i in range(order + 1):
        want += column[-1] * factor
        column = [b - a for a, b in itertools.pairwise(column)]
        factor *= ahead / (i + 1)
    assert forecast.at(steps[-1] + ahead).item() == pytest.approx(want)


@given(gaps=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)), seed=st.integers(0, 99))
def test_foca_is_its_formula(gaps: tuple[int, int, int], seed: int) -> None:
    f2, f1, f0 = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    t2, t1 = 0, gaps[0]
    t0 = t1 + gaps[1]
    t = t0 + gaps[2]
    forecast = build(FoCaCalibratorConfig())
    for step, value in ((t2, f2), (t1, f1), (t0, f0)):
        forecast.update(step, value)
    newer, older = (f0 - f1) / (t0 - t1), (f1 - f2) / (t1 - t2)
    middle_newer, middle_older = (t0 + t1) / 2, (t1 + t2) / 2

    def slope(at: float) -> Tensor:
        return newer + (newer - older) / (middle_newer - middle_older) * (at - middle_newer)

    h, r = t - t0, (t - t0) / (t0 - t1)
    predicted = ((1 + r) ** 2 * f0 - r**2 * f1 + h * (1 + r) * slope(t)) / (1 + 2 * r)
    want = f0 + h / 2 * (slope(t0) + (predicted - f0) / h)
    torch.testing.assert_close(forecast.at(t), want)


def test_foca_is_exact_for_a_line() -> None:
    forecast = build(FoCaCalibratorConfig())
    for step in (0, 1, 3):
        forecast.update(step, torch.tensor([2.0 + 3.0 * step], dtype=torch.float64))
    assert forecast.at(5).item() == pytest.approx(17.0)


def exponentials(step: float, tokens: int = 6) -> Tensor:
    shapes = torch.randn(3, 1, tokens, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return sum(rate**step * shape for rate, shape in zip((0.9, 1.05, 0.6), shapes, strict=True))  # type: ignore[return-value]


@pytest.mark.parametrize("width", [1, 2])
def test_dmd_is_exact_for_exponentials(width: int) -> None:
    forecast = build(DMDCalibratorConfig(dmd_svd_precision="high", dmd_ridge=0.0))
    for step in range(0, 6 * width, width):
        forecast.update(step, exponentials(step))
    for step in range(5 * width + 1, 5 * width + 4):
        torch.testing.assert_close(forecast.at(step), exponentials(step), rtol=1e-5, atol=1e-6)


def test_dmd_is_a_line_until_it_has_four_even_steps() -> None:
    forecast = build(DMDCalibratorConfig())
    for step in (0, 1, 2, 4):
        forecast.update(step, torch.full((1, 2, 2), float(step)))
    torch.testing.assert_close(forecast.at(6), torch.full((1, 2, 2), 6.0))


def half() -> Tensor:
    """What a rank foresees of its half of the tokens."""
    mesh = sequence_mesh(build_mesh(ParallelismConfig(ulysses_size=2), "cpu"))
    forecast = build_forecast(DMDCalibratorConfig(), True, lambda x: all_reduce(x, mesh))
    for step in range(6):
        forecast.update(step, exponentials(step).chunk(2, dim=1)[mesh.get_local_rank()])
    return forecast.at(7)


def test_dmd_of_halves_is_dmd_of_the_whole(ranks: Ranks) -> None:
    forecast = build(DMDCalibratorConfig())
    for step in range(6):
        forecast.update(step, exponentials(step))
    torch.testing.assert_close(torch.cat(ranks.run(half, 2), dim=1), forecast.at(7), rtol=1e-6, atol=1e-7)
