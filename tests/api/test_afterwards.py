"""What users do before or after they enable a pipeline is as in one process, or refused as the table says."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch import Tensor

import ditmesh
from ditmesh import DBCacheConfig, ParallelismConfig
from ditmesh.upstream.afterwards import COLUMNS, TABLE, Deed, page
from tests.api.deeds import AXES, DEEDS, ELSEWHERE, EXTRAS, Made, Subject, subject
from tests.ranks import Ranks
from tests.transformers import relative_error

pytestmark = pytest.mark.filterwarnings(
    "ignore:Already found a `peft_config`", "ignore:Adapter .* was active", "ignore:.*Merge.*lora.*"
)
LAYOUTS = AXES | {"shard_weights": ParallelismConfig(cfg_size=2, shard_weights=True)}
OF_PIPELINES = [
    ("enable_sequential_cpu_offload", "shard_weights"),
    ("enable_group_offload", "text encoder"),
    ("enable_layerwise_casting", "text encoder"),
]
ROWS = {name: deed for deed in TABLE for name in [deed.what.partition("`")[2].partition("`")[0] or deed.what]}


def test_every_row_is_walked() -> None:
    assert {*DEEDS, *ELSEWHERE, *EXTRAS["text encoder"]} == {*ROWS}
    assert all({*deed.before, *deed.after} <= {*COLUMNS} for deed in TABLE)


def test_the_page_shows_the_table() -> None:
    assert (Path(__file__).parents[2] / "docs" / "afterwards.md").read_text("utf-8").endswith(page())


def enable(on: Subject, column: str) -> None:
    if column == "cache":
        ditmesh.enable_cache(on.owner, cache_config=DBCacheConfig(Fn_compute_blocks=1, residual_diff_threshold=0.0))
    else:
        shared = [on.model] if column in EXTRAS else []
        layout = LAYOUTS.get(column, LAYOUTS["ulysses"])
        ditmesh.enable_cache(on.owner, parallelism_config=replace(layout, extra_parallel_modules=shared))


@cache
def one_process(name: str, column: str) -> tuple[Tensor, Tensor, Any]:
    """What a model makes without a deed and with it, and what the deed returns."""
    on = subject(name, column)
    plain = on.made()
    with TemporaryDirectory() as folder:
        returned = deed_of(name, column)(on.model, Path(folder))
    return plain, plain if name == "enable_parallelism" else on.made(), returned


def deed_of(name: str, column: str) -> Any:
    return EXTRAS.get(column, DEEDS)[name]


def before(name: str, deed: Deed, column: str, want: Tensor, folder: Path) -> None:
    on = subject(name, column)
    deed_of(name, column)(on.model, folder)
    if column in deed.before:
        with pytest.raises(ValueError, match=r"\w") as error:
            enable(on, column)
        assert "\n" not in str(error.value)
        assert relative_error(on.made(), want) <= 1e-5
        return
    enable(on, column)
    assert relative_error(on.made(), want) <= 1e-5
    ditmesh.disable_cache(on.owner)
    assert relative_error(on.made(), want) <= 1e-5


def after(name: str, deed: Deed, column: str, one: tuple[Tensor, Tensor, Any], folder: Path) -> None:
    on = subject(name, column)
    plain, want, returned = one
    enable(on, column)
    if column in deed.after:
        with pytest.raises(ValueError, match=r"\w") as error:
            deed_of(name, column)(on.model, folder)
        assert deed.after[column] in str(error.value) or name == "load_ip_adapter"
        want = plain
    else:
        again = deed_of(name, column)(on.model, folder)
        if isinstance(returned, dict):
            whole: Made = returned
            assert whole.keys() == again.keys()
            assert all(torch.equal(whole[key], again[key]) for key in whole)
    assert relative_error(on.made(), want) <= 1e-5
    ditmesh.disable_cache(on.owner)
    assert relative_error(on.made(), want) <= 1e-5


def walk(column: str, names: list[str], folder: Path) -> list[str]:
    """The cells of a column that are not as the table says."""
    wrong = []
    for name in names:
        deed, one = ROWS[name], one_process(name, column if column in EXTRAS else "")
        for side, cell in (("before", before), ("after", after)):
            if (name, side) == ("quantized weights", "after"):
                continue  # weights are read so, never made so
            if side == "after" and column in deed.after and (name, column) in OF_PIPELINES:
                continue  # a method of the pipeline, which refuses it
            try:
                cell(name, deed, column, one[1] if side == "before" else one, folder / f"{name} {side}")  # type: ignore[operator]
            except BaseException as error:  # noqa: BLE001 - all of a column's cells at once
                wrong.append(f"{name}, {side} {column}: {type(error).__name__}: {error}"[:600])
    return wrong


@pytest.mark.slow
@pytest.mark.parametrize("column", COLUMNS)
def test_a_model_before_and_after(ranks: Ranks, tmp_path: Path, column: str) -> None:
    names = [name for name in EXTRAS.get(column, DEEDS) if name != "compile" or column in EXTRAS]
    for wrong in ranks.run(walk, 2, column, names, tmp_path):
        assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("column", ["pp", "shard_weights"])
def test_a_whole_compiled_transformer(ranks: Ranks, tmp_path: Path, column: str) -> None:
    for wrong in ranks.run(walk, 2, column, ["compile"], tmp_path):
        assert wrong == []
