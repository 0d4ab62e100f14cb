"""What users do before or after they enable a pipeline is as in one process, or refused as the table says."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ditmesh
from ditmesh import DBCacheConfig, ParallelismConfig
from ditmesh.upstream.afterwards import COLUMNS, STEPS, TABLE, Deed, page
from tests.api.deeds import BARE, DEEDS, ELSEWHERE, Made, clean, made, subject
from tests.ranks import Ranks
from tests.transformers import SHAPES, build, relative_error

pytestmark = pytest.mark.filterwarnings(
    "ignore:Already found a `peft_config`", "ignore:Adapter .* was active", "ignore:.*Merge.*lora.*"
)
LAYOUTS = {
    "tp": ParallelismConfig(tp_size=2),
    "ulysses": ParallelismConfig(ulysses_size=2),
    "ring": ParallelismConfig(ring_size=2),
    "pp": ParallelismConfig(pp_size=2, num_pipeline_patch=1),
    "cfg": ParallelismConfig(cfg_size=2),
}
ROWS = {name: deed for deed in TABLE for name in [deed.what.partition("`")[2].partition("`")[0] or deed.what]}


def test_every_row_is_walked() -> None:
    assert {*DEEDS, *ELSEWHERE} == {*ROWS}
    assert all({*deed.before, *deed.after} <= {*COLUMNS} for deed in TABLE)


def test_the_page_shows_the_table() -> None:
    assert (Path(__file__).parents[2] / "docs" / "afterwards.md").read_text("utf-8").endswith(page())


def enable(model: Any, column: str) -> None:
    if column == "cache":
        ditmesh.enable_cache(model, cache_config=DBCacheConfig(Fn_compute_blocks=1, residual_diff_threshold=0.0))
    else:
        ditmesh.enable_cache(model, parallelism_config=LAYOUTS[column])


def new(name: str) -> tuple[Any, dict[str, Any]]:
    return build("flux", SHAPES["odd"], torch.float32) if name in BARE else subject()


def one_process(name: str, folder: Path) -> tuple[Tensor, Tensor, Any]:
    """What a model makes without a deed and with it, and what the deed returns."""
    model, inputs = new(name)
    plain = made(model, inputs)
    returned = DEEDS[name](model, folder)
    return plain, plain if name == "enable_parallelism" else made(model, inputs), returned


def before(name: str, deed: Deed, column: str, want: Tensor, folder: Path) -> None:
    model, inputs = new(name)
    DEEDS[name](model, folder)
    if column in deed.before:
        with pytest.raises(ValueError, match=r"\w") as error:
            enable(model, column)
        assert "\n" not in str(error.value)
        assert relative_error(made(model, inputs), want) <= 1e-5
        return
    enable(model, column)
    assert relative_error(made(model, inputs), want) <= 1e-5
    clean(model)
    ditmesh.disable_cache(model)
    assert relative_error(made(model, inputs), want) <= 1e-5


def after(name: str, deed: Deed, column: str, one: tuple[Tensor, Tensor, Any], folder: Path) -> None:
    model, inputs = new(name)
    plain, want, returned = one
    enable(model, column)
    if column in deed.after:
        with pytest.raises(ValueError, match=r"\w") as error:
            DEEDS[name](model, folder)
        assert deed.after[column] in str(error.value) or name == "load_ip_adapter"
        want = plain
    else:
        again = DEEDS[name](model, folder)
        if isinstance(returned, dict):
            whole: Made = returned
            assert whole.keys() == again.keys()
            assert all(torch.equal(whole[key], again[key]) for key in whole)
    assert relative_error(made(model, inputs), want) <= 1e-5
    clean(model)
    ditmesh.disable_cache(model)
    assert relative_error(made(model, inputs), want) <= 1e-5


def walk(column: str, names: list[str], folder: Path) -> list[str]:
    """The cells of a column that are not as the table says."""
    wrong = []
    for name in names:
        deed, one = ROWS[name], one_process(name, folder / f"{name} alone {torch.distributed.get_rank()}")
        for side, cell in (("before", before), ("after", after)):
            if (name, side) == ("quantized weights", "after"):
                continue  # weights are read so, never made so
            if (name, side, column) == ("enable_sequential_cpu_offload", "after", "pp"):
                continue  # a method of the pipeline, which refuses it
            try:
                cell(name, deed, column, one[1] if side == "before" else one, folder / f"{name} {side}")  # type: ignore[operator]
            except BaseException as error:  # noqa: BLE001 - all of a column's cells at once
                wrong.append(f"{name}, {side} {column}: {type(error).__name__}: {error}"[:600])
    return wrong


@pytest.mark.parametrize("column", STEPS)
def test_a_transformer_before_and_after(ranks: Ranks, tmp_path: Path, column: str) -> None:
    for wrong in ranks.run(walk, 2, column, [name for name in DEEDS if name != "compile"], tmp_path):
        assert wrong == []


@pytest.mark.parametrize("column", ["pp", "cfg"])
def test_a_whole_compiled_transformer(ranks: Ranks, tmp_path: Path, column: str) -> None:
    for wrong in ranks.run(walk, 2, column, ["compile"], tmp_path):
        assert wrong == []
