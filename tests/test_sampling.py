"""A sample of a matrix has whatever there is to show, another each time, and the same for the same seed."""

import itertools

from tests.cases import CASES
from tests.sampling import facts_of, sample, shows

CELLS = [
    {"name": name, "layout": layout, "shape": shape}
    for name, layout, shape in itertools.product([*CASES, "flux:controlnet"], ["tp2", "ring3"], ["odd", "masked"])
]


def test_a_sample_shows_all_there_is() -> None:
    for seed in range(3):
        drawn = [CELLS[number] for number in sample(CELLS, seed)]
        assert len(drawn) < len(CELLS) / 2
        assert {cell["name"].partition(":")[0] for cell in drawn} == {*CASES}
        assert len({(cell["layout"], cell["shape"]) for cell in drawn}) == 4
        assert set().union(*map(shows, drawn)) == set().union(*map(shows, CELLS))


def test_a_seed_draws_a_sample() -> None:
    assert sample(CELLS, 1) == sample(CELLS, 1) != sample(CELLS, 2)


def test_a_sheet_is_read_down_to_its_parts() -> None:
    assert {"Fused.parts", "Blocks.returns", "rowwise"} <= facts_of("flux")
    assert all(map(facts_of, CASES))
    assert not facts_of("LlamaModel")
