"""Quantized weights of every kind in every layout: as in one process, or refused as the table says."""

from pathlib import Path

import pytest

from tests.parallel import quantized
from tests.parallel.quantized import LAYOUTS, page
from tests.ranks import Ranks


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_kind_is_as_the_table_says(ranks: Ranks, layout: str) -> None:
    for wrong in ranks.run(quantized.walk, 2, layout):
        assert wrong == []


def test_the_page_shows_the_table() -> None:
    assert (Path(__file__).parents[2] / "docs" / "quantization.md").read_text("utf-8").endswith(page())


def test_blocks_that_would_be_cut_apart_and_unknown_kinds_are_refused(ranks: Ranks) -> None:
    for cut, *unknown in ranks.run(quantized.refused, 2):
        assert "128 of its inputs are quantized together, and 3 ranks would cut them apart; use tp_size=2 or 4" in cut
        assert len(unknown) == 3
        assert all("is a Packed of tests, which" in message for message in unknown)


def test_models_that_share_out_more_than_linears(ranks: Ranks) -> None:
    for wrong in ranks.run(quantized.others, 2):
        assert wrong == []


def test_a_linear_of_every_kind_is_exact(ranks: Ranks) -> None:
    for wrong in ranks.run(quantized.linears, 2):
        assert wrong == []


def test_what_diffusers_quantized_is_saved_whole(ranks: Ranks, tmp_path: Path) -> None:
    for wrong in ranks.run(quantized.saved, 2, tmp_path):
        assert wrong == []


def test_lora_weights_go_around_quantized_linears(ranks: Ranks) -> None:
    for wrong in ranks.run(quantized.adapted, 2):
        assert wrong == []
