"""Quantized weights of every kind in every layout: as in one process, or refused as the table says."""

from pathlib import Path

import pytest

from ditmesh import ParallelismConfig
from tests.parallel import quantized, quantized_shares
from tests.parallel.quantized import LAYOUTS, page
from tests.ranks import Ranks


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_kind_is_as_the_table_says(ranks: Ranks, layout: str) -> None:
    for wrong in ranks.run(quantized.walk, 2, layout):
        assert wrong == []


@pytest.mark.parametrize("layout", ["cfg2", "ring3", "ulysses2.tp2", "pp2.ulysses2"])
def test_shared_weights_change_no_bit(ranks: Ranks, layout: str) -> None:
    kinds = [
        "torchao int8",
        "bitsandbytes nf4, double quantization",
        "quanto int4, in groups of up to 128",
        "GGUF Q4_0",
    ]
    for wrong in ranks.run(quantized_shares.changed, ParallelismConfig.parse(layout).world_size, layout, kinds):
        assert wrong == []


def test_the_page_shows_the_table() -> None:
    assert (Path(__file__).parents[2] / "docs" / "quantization.md").read_text("utf-8").endswith(page())


def test_blocks_that_would_be_cut_apart_and_unknown_kinds_are_refused(ranks: Ranks) -> None:
    for cut, *unknown in ranks.run(quantized.refused, 2):
        assert "128 of its inputs are quantized together, and 3 ranks would cut them apart; use tp_size=2 or 4" in cut
        assert len(unknown) == 4
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
    for wrong in [*ranks.run(quantized.adapted, 2), *ranks.run(quantized_shares.adapted, 2)]:
        assert wrong == []
