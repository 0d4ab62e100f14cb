"""Numbers are judged alike wherever they come from, and a side is judged by what the saved configurations say."""

import math

import pytest

from ditmesh.batch.files import RawRow
from ditmesh.batch.pictures import Recipe, all_pictures
from ditmesh.batch.rows import BadRow, check_rows
from ditmesh.job.facts import PipelineFacts, TransformerFacts
from ditmesh.job.numbers import SEEDS, check_numbers


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("guidance_scale", value) for value in (-1.0, math.nan, math.inf)),
        *(("height", value) for value in (0, -5, 2**60)),
        *(("seed", value) for value in (-1, SEEDS)),
        ("num_images_per_prompt", 1001),
    ],
)
def test_a_flag_and_a_row_are_refused_for_the_same_reason(name, value):
    with pytest.raises(ValueError, match=f"^{name}: input should be") as error:
        check_numbers({name: value})
    (bad,) = check_rows([RawRow(1, {"prompt": "x", name: value})])
    assert isinstance(bad, BadRow)
    assert bad.why.split(" (")[0] == str(error.value).split(" (")[0]


def test_arguments_that_only_a_pipeline_knows_are_judged_by_what_they_are():
    check_numbers({"sigmas": [1.0, 0.5], "use_scale": True, "image": object(), "strength": -1, "guidance_scale_2": 0})
    for wrong in ({"sigmas": [math.inf]}, {"guidance_scale_2": -1}, {"controlnet_conditioning_scale": [1, -1]}):
        with pytest.raises(ValueError, match="input should be"):
            check_numbers(wrong)


def test_a_row_that_is_too_small_for_one_token_costs_itself():
    rows = check_rows([RawRow(1, {"prompt": "x", "height": 7}), RawRow(2, {"prompt": "x", "height": 16})])
    found = list(all_pictures(rows, Recipe(smallest_side=16)))
    assert [isinstance(one, BadRow) for one in found] == [True, False]


@pytest.mark.parametrize(
    ("vae", "transformer", "side"),
    [
        ({"block_out_channels": [1, 2, 3, 4], "latent_channels": 16}, {"patch_size": 1, "in_channels": 64}, 16),
        ({"block_out_channels": [1, 2, 3, 4], "latent_channels": 16}, {"patch_size": 2, "in_channels": 64}, 16),
        ({"scale_factor_spatial": 8, "z_dim": 16}, {"patch_size": [1, 2, 2], "in_channels": 16}, 16),
        ({"spatial_compression_ratio": 32, "block_out_channels": [1, 2]}, {}, 32),
        ({}, {"patch_size": 2}, 2),
        ({}, {}, 1),
    ],
    ids=str,
)
def test_the_smallest_side_is_that_of_one_token(vae, transformer, side):
    assert PipelineFacts("X", {}, {"transformer": TransformerFacts("Y", transformer)}, vae).smallest_side == side
