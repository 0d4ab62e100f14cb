"""On every layout the cache leaves out the same blocks in the same steps as its written algorithm on one process."""

from typing import Any

import pytest
import torch

import ditmesh
from ditmesh import DMDCalibratorConfig, ParallelismConfig
from tests.cache.caching import build_deep, cached, config, oracle, run
from tests.cases import float32_inside
from tests.counting import CommunicationCounter
from tests.ranks import Ranks
from tests.transformers import SHAPES, forward, relative_error

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
SHEETS = {
    "tp2": ["flux", "flux2", "qwen_image", "wan", "sd3", "lumina2", "hunyuan_video"],
    "ulysses2": ["flux:controlnet", "flux2", "z_image", "ltx2", "cogvideox", "kandinsky5", "helios"],
    "ring2": ["qwen_image:controlnet", "wan", "sd3:controlnet", "ltx", "hunyuan_dit", "aura_flow"],
    "ulysses3": ["flux2", "wan_vace", "z_image:controlnet", "hidream_image", "mochi", "pixart"],
    "ring2.ulysses2.tp2": ["flux", "wan", "qwen_image", "sd3", "ltx2", "flux3"],
}


def check(ranks: Ranks, name: str, layout: str, shape: str, **settings: Any) -> None:
    dtype = torch.float32 if float32_inside(name) else settings.pop("dtype", torch.float64)
    want, steps = oracle(name, SHAPES[shape], dtype, **settings)
    assert any(steps)
    world = ParallelismConfig.parse(layout).world_size
    for got, found in ranks.run(cached, world, name, layout, SHAPES[shape], dtype, **settings):
        assert found == steps
        for x, y in zip(got, want, strict=True):
            assert relative_error(x, y) <= TOLERANCE[dtype]


@pytest.mark.matrix
@pytest.mark.parametrize(("layout", "name"), [(layout, name) for layout, names in SHEETS.items() for name in names])
def test_a_layout_equals_the_written_algorithm(ranks: Ranks, layout: str, name: str) -> None:
    check(ranks, name, layout, "odd")


@pytest.mark.parametrize("layout", ["ulysses2", "ring2.ulysses2.tp2"])
@pytest.mark.parametrize("settings", [{"order": 1}, {"order": 1, "mode": "hidden_states", "last": 1}], ids=str)
def test_a_forecast_equals_the_written_algorithm(ranks: Ranks, layout: str, settings: dict[str, Any]) -> None:
    check(ranks, "flux2", layout, "odd", **settings)
    check(ranks, "wan", layout, "batch2", dtype=torch.float32, **settings)


@pytest.mark.parametrize(
    "name",
    ["flux", "flux2", "qwen_image", "wan", "ltx2", "hidream_image", "flux3:reference", "motif_video:first_frame"],
)
def test_a_token_that_stands_in_for_none_does_not_count(ranks: Ranks, name: str) -> None:
    dtype = torch.float32 if float32_inside(name) else torch.float64
    want = ranks.run(differences, 1, name, "single", dtype)[0]
    for found in ranks.run(differences, 4, name, "ring2.ulysses2", dtype):
        assert found == pytest.approx(want, rel=1e-5 if dtype == torch.float32 else 1e-9)
    assert want


def differences(name: str, layout: str, dtype: torch.dtype) -> list[float]:
    """The differences found in each chain, of fewer tokens than ranks."""
    model, inputs = build_deep(name, SHAPES["short"], dtype)
    ditmesh.enable_cache(
        model,
        cache_config=config(threshold=1e-9),
        parallelism_config=None if layout == "single" else ParallelismConfig.parse(layout),
    )
    run(model, inputs)
    return [value for one in ditmesh.summary(model, logging=False) for value in one.residual_diffs.values()]


def shards_apart(layout: str, hold: float) -> tuple[list[Any], dict[str, int], dict[str, int]]:
    """One rank's tokens move far, and another's not at all; the threshold lies between. Collectives of two steps."""
    model, inputs = build_deep("flux", SHAPES["even"], torch.float32)
    ditmesh.enable_cache(model, config(threshold=hold), parallelism_config=ParallelismConfig.parse(layout))
    moved = dict(inputs, hidden_states=inputs["hidden_states"].clone())
    moved["hidden_states"][:, -3:] += 5
    broken = dict(inputs, hidden_states=inputs["hidden_states"].clone())
    broken["hidden_states"][:, -1] = float("nan")
    found = []
    counts = []
    with torch.no_grad():
        for given in (inputs, moved, inputs, broken, inputs):
            with CommunicationCounter() as counter:
                forward(model, given)
            counts.append(dict(counter.calls))
    for one in ditmesh.summary(model, logging=False):
        found += [one.cached_steps, {k: str(v) for k, v in one.residual_diffs.items()}]
    return found, counts[0], counts[2]


@pytest.mark.parametrize("layout", ["ulysses2", "ring2", "ulysses3", "tp2"])
@pytest.mark.parametrize("hold", [0.05, 0.3, 0.9])
def test_ranks_whose_shards_disagree_decide_as_one(ranks: Ranks, layout: str, hold: float) -> None:
    world = ParallelismConfig.parse(layout).world_size
    answers = ranks.run(shards_apart, world, layout, hold)
    assert all(found == answers[0][0] for found, *_ in answers)
    assert 3 not in answers[0][0][0]  # nothing is known of a step that is not a number


def test_a_decision_costs_one_small_collective_and_none_where_counters_decide(ranks: Ranks) -> None:
    for plain, never, tested, settled in ranks.run(collectives, 2):
        assert never == plain
        assert tested == {**plain, "_allgather_base_": plain.get("_allgather_base_", 0) + 1}
        assert settled == plain


def collectives() -> list[dict[str, int]]:
    """Collectives of a step without a cache, with a threshold of 0, of a tested one and of one a mask settles."""
    found = []
    for settings in (
        None,
        config(threshold=0.0),
        config(threshold=1e-9),
        config(steps_computation_mask=[1, 1], steps_computation_policy="dynamic"),
    ):
        model, inputs = build_deep("flux", SHAPES["even"], torch.float32)
        ditmesh.enable_cache(model, settings, parallelism_config=ParallelismConfig(ulysses_size=2))
        with torch.no_grad():
            forward(model, inputs)
            with CommunicationCounter() as counter:
                forward(model, inputs if settings is None else dict(inputs, guidance=inputs["guidance"] + 1))
        found.append(dict(counter.calls))
    return found


def grown(layout: str) -> list[Any]:
    """Seven tokens grow to eight in the middle of a request, which changes some ranks' shards alone."""
    model, inputs = build_deep("flux", (1, (1, 7), 5, False), torch.float64)
    larger = build_deep("flux", (1, (1, 8), 5, False), torch.float64)[1]
    ditmesh.enable_cache(model, config(threshold=1.0), parallelism_config=ParallelismConfig.parse(layout))
    with torch.no_grad():
        outputs = [forward(model, given) for given in (inputs, inputs, larger, larger)]
    return [outputs, ditmesh.summary(model, logging=False)[0].cached_steps]


@pytest.mark.parametrize("layout", ["ulysses3", "ring2"])
def test_a_shape_that_changes_on_some_ranks_alone(ranks: Ranks, layout: str) -> None:
    answers = ranks.run(grown, ParallelismConfig.parse(layout).world_size, layout)
    single = ranks.run(grown, 1, "single")[0]
    for outputs, steps in answers:
        assert steps == single[1] == (1, 3)
        assert all(relative_error(x, y) <= 1e-10 for x, y in zip(outputs, single[0], strict=True))


def forecast(layout: str) -> list[torch.Tensor]:
    """A request forecast by DMD, from four evenly spaced steps on."""
    model, inputs = build_deep("wan", SHAPES["odd"], torch.float64)
    mask = [1, 1, 1, 1, 1, 0, 0]
    settings = config(steps_computation_mask=mask, steps_computation_policy="static")
    layout_config = None if layout == "single" else ParallelismConfig.parse(layout)
    ditmesh.enable_cache(model, settings, DMDCalibratorConfig(), parallelism_config=layout_config)
    given = [dict(inputs, hidden_states=inputs["hidden_states"] * (1 + 0.1 * step)) for step in range(len(mask))]
    with torch.no_grad():
        return [forward(model, step) for step in given]


def test_dmd_fits_the_tokens_of_all_ranks(ranks: Ranks) -> None:
    want = ranks.run(forecast, 1, "single")[0]
    for got in ranks.run(forecast, 3, "ulysses3"):
        for x, y in zip(got, want, strict=True):
            assert relative_error(x, y) <= 1e-6  # an ill-conditioned fit magnifies rounding
