"""Prompt files: whatever is in them, each row is read once, in order, and a bad one costs only itself."""

import csv
import gzip
import io
import json
import os
import tracemalloc
from unittest import mock

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from ditmesh.batch import files
from ditmesh.batch.files import JsonText, RawRow, check_file, read_rows
from ditmesh.batch.pictures import Picture, Recipe, all_pictures
from ditmesh.batch.rows import BadRow, check_rows, safe_name, unused_columns

# What a line or a cell can hold: no surrogates, which are no text, and no NUL, which no CSV has.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), min_size=1).filter(str.strip)
VALUES = {
    "negative_prompt": TEXT,
    "height": st.integers(1, 4096),
    "width": st.integers(1, 4096),
    "num_inference_steps": st.integers(1, 100),
    "guidance_scale": st.floats(0, 100),
    "seed": st.integers(0, 2**63 - 1),
    "num_images_per_prompt": st.integers(1, 9),
}
ROWS = st.lists(st.fixed_dictionaries({"prompt": TEXT}, optional=VALUES), min_size=1, max_size=8)


def rows_of(path) -> list[dict]:
    """What the rows of a file say, where they say something."""
    judged = list(check_rows(read_rows(path)))
    assert [row for row in judged if isinstance(row, BadRow)] == []
    assert [row.index for row in judged] == list(range(len(judged)))
    return [row.row.model_dump(exclude_none=True) for row in judged]


def bad_rows(path) -> list[tuple[int, str]]:
    return [(row.line, row.why) for row in check_rows(read_rows(path)) if isinstance(row, BadRow)]


@given(ROWS)
def test_every_kind_of_file_says_the_same(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("rows")
    (folder / "a.jsonl").write_text("\n\n".join(json.dumps(row) for row in rows), "utf-8")
    (folder / "a.json").write_text(json.dumps(rows, indent=1), "utf-8")
    parquet.write_table(pa.Table.from_pylist(rows, schema=_schema()), folder / "a.parquet")
    assert rows_of(folder / "a.jsonl") == rows_of(folder / "a.json") == rows_of(folder / "a.parquet") == rows


def _schema():
    kinds = {"prompt": pa.string(), "negative_prompt": pa.string(), "guidance_scale": pa.float64()}
    return pa.schema([(name, kinds.get(name, pa.int64())) for name in ("prompt", *VALUES)])


@given(ROWS)
def test_cells_of_a_csv_become_numbers(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("rows") / "a.csv"
    rows = [{name: x.strip() if isinstance(x, str) else x for name, x in row.items()} for row in rows]
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, ["prompt", *VALUES], quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
    assert rows_of(path) == rows


@given(st.lists(TEXT, min_size=1))
def test_a_line_of_text_is_a_prompt(tmp_path_factory, prompts):
    path = tmp_path_factory.mktemp("rows") / "a.TXT"
    path.write_bytes("\r\n".join(prompts).encode("utf-8-sig"))
    assert [row["prompt"] for row in rows_of(path)] == [prompt.strip(files.SPACE) for prompt in prompts]


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists), st.integers(1, 5))
def test_json_is_read_alike_however_it_is_cut(value, chunk):
    text = json.dumps(value)
    pieces = iter([text[i : i + chunk] for i in range(0, len(text), chunk)])
    assert JsonText(lambda _: next(pieces, "")).value() == value


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".txt", ".csv"])
def test_a_file_of_any_length_begins_at_once_and_takes_no_memory(tmp_path, suffix):
    path, count = tmp_path / f"long{suffix}", 20_000
    prompt = "a dog " * 20
    line = {".txt": prompt, ".csv": prompt}.get(suffix) or json.dumps({"prompt": prompt})
    text = (",\n" if suffix == ".json" else "\n").join([line] * count)
    path.write_text({".json": f"[{text}]", ".csv": f"prompt\n{text}"}.get(suffix, text))
    next(read_rows(path))
    tracemalloc.start()
    assert sum(isinstance(picture, Picture) for picture in all_pictures(check_rows(read_rows(path)), Recipe())) == count
    assert tracemalloc.get_traced_memory()[1] < path.stat().st_size / 2
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "no JSON"),
        ("3", "it is a int, and a row is an object with a prompt, or a string"),
        ("{}", "it has no prompt"),
        ('{"prompt": " "}', "prompt: it is empty"),
        ('{"prompt": "\\ud800"}', "prompt: it is no UTF-8"),
        ('{"promt": "dog"}', "there is no column 'promt'; did you mean 'prompt'?"),
        ('{"prompt": "dog", "Heigth": 3}', "did you mean 'height'?"),
        ('{"prompt": "dog", "height": -1}', "height: input should be greater than or equal to 1 ('-1')"),
        ('{"prompt": "dog", "height": "tall"}', "height: input should be a valid integer"),
        ('{"prompt": "dog", "height": true}', "height: a number is expected, not true or false"),
        (
            '{"prompt": "dog", "guidance_scale": NaN}',
            "guidance_scale: input should be greater than or equal to 0 ('nan')",
        ),
        ('{"prompt": "dog", "seed": -1}', "seed: input should be greater than or equal to 0"),
        ('{"prompt": "dog", "output_name": "../a.png"}', "leads out of the output folder"),
        ('{"prompt": "dog", "index": 3}', "it has an index, and the rows before it have none"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_a_bad_row_costs_only_itself_and_is_told_with_its_line(tmp_path, line, why):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"prompt": "cat", "output_name": "first"}}\n{line}\n\n"bird"\n')
    first, bad, last = check_rows(read_rows(path))
    assert isinstance(bad, BadRow)
    assert bad.line == 2
    assert why in bad.why
    assert (first.index, last.index, last.line, last.row.prompt) == (0, 2, 4, "bird")


def test_what_is_no_text_costs_only_its_line(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"cat\n\xff\xfe\ndog\n")
    assert bad_rows(tmp_path / "a.txt") == [(2, "it is no UTF-8")]
    (tmp_path / "a.csv").write_bytes(b'prompt,seed\ncat,1\n\xff,2\na,b,c\n"two\nlines",3\n,4\n')
    told = bad_rows(tmp_path / "a.csv")
    assert [line for line, _ in told] == [3, 4, 7]
    assert [why.split(" (")[0] for _, why in told] == [
        "prompt: it is no UTF-8",
        "it has more cells than the first line names; quote a prompt with commas",
        "it has no prompt",
    ]


def test_a_json_file_is_read_up_to_where_it_breaks(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('["cat",\n"dog" "bird"]')
    assert [row.line for row in check_rows(read_rows(path))] == [1, 2, 2]
    assert "a comma or ] is missing here" in bad_rows(path)[0][1]
    path.write_text('["cat",\n{"prompt": }]')
    assert "nothing behind it can be read" in bad_rows(path)[0][1]


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.xlsx", "", "is no prompt file; its name has to end in one of .jsonl, .json, .csv, .txt, .parquet"),
        ("a.jsonl", "\n \n", "holds no prompts"),
        ("a.csv", "text,seed\nx,1\n", "has no column 'prompt'; its first line names 'text', 'seed'"),
        ("a.parquet", "no", "is no Parquet file"),
        ("a.json", '{"prompt": "cat"}', "holds no array of rows; name it .jsonl"),
        ("a.jsonl", gzip.compress(b'"cat"'), "is compressed by gzip; unpack it first"),
        ("a.txt", "cat".encode("utf-16"), "is no text in UTF-8"),
        ("a.csv", '"prompt\ncat\n', "names no columns: it is no CSV"),
    ],
)
def test_a_file_that_is_none_is_refused_before_anything_starts(tmp_path, name, content, why):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=why):
        check_file(tmp_path / name)
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        check_file(tmp_path / "none.txt")


def test_a_pipe_is_refused_and_standard_input_is_read_twice(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(ValueError, match="write --prompts_file - < "):
        check_file(tmp_path / "pipe.jsonl")
    for text, prompts in (
        ('{"prompt": "cat"}\n"dog"\n', ["cat", "dog"]),
        ('["cat", {"prompt": "dog"}]', ["cat", "dog"]),
        ("seed,prompt\n1,cat\n", ["cat"]),
        ("a cat, asleep\na dog\n", ["a cat, asleep", "a dog"]),
    ):
        with files.spooled(io.BytesIO(text.encode())) as path:
            check_file(path)
            assert [row["prompt"] for row in rows_of(path)] == [row["prompt"] for row in rows_of(path)] == prompts
        assert not path.exists()


@pytest.mark.parametrize(
    ("text", "bad", "good"),
    [
        ('prompt\n"a cat\na dog\na bird\n', [2], ["a dog", "a bird"]),
        ('prompt,seed\n"a cat,1\n"a dog",2\n"a bird",3\n', [2], ["a dog", "a bird"]),
        ('prompt,seed\na fish,1\n"a cat,1\n"a dog,2\na bird,3\n', [3, 4], ["a fish", "a bird"]),
        ('prompt\n"two\nlines"\n"a "cat""\na 5" disk\n', [4], ["two\nlines", 'a 5" disk']),
    ],
)
def test_a_quote_that_nobody_closes_costs_its_own_row(tmp_path, text, bad, good):
    path = tmp_path / "a.csv"
    path.write_text(text)
    judged = list(check_rows(read_rows(path)))
    assert [row.line for row in judged if isinstance(row, BadRow)] == bad
    assert [row.row.prompt for row in judged if not isinstance(row, BadRow)] == good


def test_a_quote_that_nobody_closes_in_a_long_file_takes_no_time_and_no_memory(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('prompt\n"a cat\n' + "a dog " * 20 + "\n" + ("a dog " * 20 + "\n") * 20_000)
    tracemalloc.start()
    judged = read_rows(path)
    assert next(judged).wrong
    assert sum(1 for _ in judged) == 20_001
    assert tracemalloc.get_traced_memory()[1] < path.stat().st_size / 2
    tracemalloc.stop()


def test_a_prompt_that_no_model_reads_costs_only_its_row(tmp_path):
    (tmp_path / "a.txt").write_text("x" * 10_000_000 + "\ncat\n")
    assert bad_rows(tmp_path / "a.txt") == [(1, mock.ANY)]
    (why,) = [why for _, why in bad_rows(tmp_path / "a.txt")]
    assert why.startswith("prompt: 10000000 letters are more than the 100000 that a text may have")
    assert len(why) < 200


def test_columns_that_say_nothing_are_named():
    row = RawRow(1, {"prompt": "x", "style": "oil", "seed": 3, "source": "web"})
    assert unused_columns([row]) == ["style", "source"]


@pytest.mark.parametrize(
    ("name", "safe"),
    [("a", "a.png"), ("a.PNG", "a.PNG"), ("b/a.jpeg", "b/a.jpeg"), ("./a.v1", "a.v1.png"), ("2024_x", "2024_x.png")],
)
def test_a_name_keeps_its_kind_or_gets_one(name, safe):
    assert safe_name(name) == safe


@pytest.mark.parametrize(
    "name",
    [
        *("/a", "../a", "a/../../b", "..", "", " ", "a\0b", "contact.png", "000003", "3_01.jpg", "x" * 300),
        *("manifest.jsonl/x", "Contact.PNG/x", "index.html/a/b", ".ditmesh.lock/x", "000003.png/x", ".a.unfinished/x"),
    ],
)
def test_a_name_that_no_picture_may_have_is_refused(name):
    with pytest.raises(ValueError, match=r"no file name|leads out|gives files itself|too long"):
        safe_name(name)


@given(st.text())
def test_no_name_leads_out_of_the_folder(tmp_path_factory, name):
    folder = tmp_path_factory.getbasetemp()
    try:
        safe = safe_name(name)
    except (ValueError, UnicodeEncodeError):
        return
    assert (folder / safe).resolve().is_relative_to(folder.resolve())
