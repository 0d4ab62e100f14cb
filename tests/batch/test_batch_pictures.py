"""Pictures as units of work: their names, their noise, and the batches they are put in."""

import json
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ditmesh.batch.files import read_rows
from ditmesh.batch.pictures import (
    Picture,
    Recipe,
    all_pictures,
    batches,
)
from ditmesh.batch.rows import BadRow, GoodRow, check_rows
from ditmesh.job.call import PER_IMAGE, PER_ROW, check_two_branches, noise_seed


def test_an_index_of_its_own_names_a_picture_and_comes_once(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("prompt,index\ncat,7\ndog,3\nbird,7\nfish,\n")
    judged = list(check_rows(read_rows(path)))
    assert [row.index for row in judged if isinstance(row, GoodRow)] == [7, 3]
    assert [row.why for row in judged if isinstance(row, BadRow)] == [
        "index 7 was given before",
        "it has no index, and the rows before it have; give every row one, or none",
    ]
    assert [picture.file for picture in pictures(path)] == ["000007.png", "000003.png"]


def test_no_name_is_a_picture_and_a_folder(tmp_path):
    def judged(*names: str):
        path = tmp_path / "a.jsonl"
        path.write_text("".join(json.dumps({"prompt": "x", "output_name": name}) + "\n" for name in names))
        return list(all_pictures(check_rows(read_rows(path)), Recipe()))

    found = judged("x.png", "x.png/y", "d/e/z", "d", "d/e.png", "d/e", "d/e/z/w")
    files = [x.file for x in found if isinstance(x, Picture)]
    assert files == ["x.png", "d/e/z.png", "d.png", "d/e.png", "d/e/z/w.png"]
    assert [x.line for x in judged("x.png/y", "x") if isinstance(x, BadRow)] == [2]


@pytest.mark.parametrize(
    ("first", "second", "taken"),
    [
        ('"output_name": "a"', '"output_name": "a.png"', "a.png"),
        ('"output_name": "a", "num_images_per_prompt": 2', '"output_name": "a_01"', "a_01.png"),
        ('"output_name": "a_01"', '"output_name": "a", "num_images_per_prompt": 2', "a_01.png"),
    ],
)
def test_no_picture_takes_the_place_of_another_row_s(tmp_path, first, second, taken):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"prompt": "cat", {first}}}\n{{"prompt": "dog", {second}}}\n{{"prompt": "dog"}}\n')
    found = list(all_pictures(check_rows(read_rows(path)), Recipe()))
    (refused,) = [x for x in found if isinstance(x, BadRow)]
    assert refused == BadRow(2, f"output_name: a row before it makes a picture of the name {taken!r}")
    assert {x.line for x in found if isinstance(x, Picture)} == {1, 3}


def pictures(path, recipe=Recipe()) -> list[Picture]:  # noqa: B008 - it is frozen
    return [x for x in all_pictures(check_rows(read_rows(path)), recipe) if isinstance(x, Picture)]


def test_the_pictures_of_a_row_are_numbered_and_take_what_the_row_says(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"prompt": "x", "num_images_per_prompt": 2, "height": 8, "output_name": "d/a.jpg", "seed": 5}\n"y"'
    )
    recipe = Recipe(call={"height": 64, "width": 32}, seed=1)
    a, b, c = pictures(path, recipe)
    assert [x.file for x in (a, b, c)] == ["d/a_00.jpg", "d/a_01.jpg", "000001.png"]
    assert (a.call, c.call) == ({"height": 8, "width": 32}, {"height": 64, "width": 32})
    assert (a.noise_seed, a.seed, c.seed) == (5, 5, 1)
    taking = Recipe(takes={"prompt": None}, title="XPipeline")
    assert [x.why for x in all_pictures(check_rows(read_rows(path)), taking) if isinstance(x, BadRow)] == [
        "a XPipeline takes no height"
    ]


def test_no_two_pictures_share_their_noise():
    # (i, k) and (j, l) share it where (i - j) PER_ROW = (l - k) PER_IMAGE modulo 2^32.
    inverse = pow(PER_ROW, -1, 2**32)
    for images in range(1, 1000):
        apart = images * PER_IMAGE * inverse % 2**32
        assert min(apart, 2**32 - apart) > 1_000_000
    assert noise_seed(42, 0, 0) == 42
    assert len({noise_seed(7, i, k) for i in range(300) for k in range(9)}) == 2700


KINDS = st.lists(st.tuples(st.integers(1, 3), st.booleans()), max_size=60)


@given(KINDS, st.integers(1, 7))
def test_batches_hold_one_kind_and_every_picture_once(kinds, size):
    all_of_them = [
        Picture(i, 0, i, "x", {"height": h, "negative_prompt": "n" if n else None}, 0, f"{i}")
        for i, (h, n) in enumerate(kinds)
    ]
    made = list(batches(all_of_them, size))
    assert sorted(x.index for batch in made for x in batch) == list(range(len(kinds)))
    assert all(len(batch) <= size and len({x.kind for x in batch}) == 1 for batch in made)
    full = sum(len(batch) == size for batch in made)
    assert len(made) - full <= len({x.kind for x in all_of_them})


def test_no_picture_waits_for_ever():
    def endless():
        yield Picture(0, 0, 0, "rare", {"height": 1}, 0, "0")
        i = 1
        while True:
            yield Picture(i, 0, i, "x", {"height": i + 1}, 0, f"{i}")
            i += 1

    first = next(islice(batches(endless(), 4), 1))
    assert [x.prompt for x in first] == ["rare"]


@pytest.mark.parametrize(
    ("call", "takes", "missing"),
    [
        ({}, ["true_cfg_scale"], "a negative_prompt and a true_cfg_scale above 1"),
        ({"negative_prompt": ""}, ["true_cfg_scale"], "a true_cfg_scale above 1"),
        ({"guidance_scale": 1.0}, [], "a guidance_scale above 1"),
    ],
)
def test_a_row_without_a_second_branch_is_refused_for_guidance_parallelism(call, takes, missing):
    with pytest.raises(ValueError, match=missing):
        check_two_branches(call, takes, "XPipeline")
    check_two_branches({"negative_prompt": "", "true_cfg_scale": 2, "guidance_scale": 2}, takes, "XPipeline")
