"""A package of somebody else's brings a model: the page that says how is followed, word by word."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import ditmesh
from ditmesh.models import CONTROLNETS, SPECS
from ditmesh.sheets import check_sheet, register, spec_of
from ditmesh.spec import Attention, Blocks, Fused, Gather, ModelSpec, Split

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[2] / "docs" / "add_a_model.md").read_text("utf-8")
SCRIPT = """
import torch.distributed as dist
import ditmesh
from ditmesh.checks import check_layout
from ditmesh.models import SPECS
assert "BrickTransformer2DModel" not in SPECS
check_layout(ditmesh.ParallelismConfig(tp_size=2), "BrickTransformer2DModel", {"num_attention_heads": 8})
assert SPECS["BrickTransformer2DModel"].title == "Bricks"
try:
    check_layout(ditmesh.ParallelismConfig(tp_size=2), "BrokenTransformer", {})
except ValueError as error:
    assert "the package bricks offers a fact sheet of BrokenTransformer, bricks.none:SPEC" in str(error), error
else:
    raise AssertionError
"""


@pytest.fixture(scope="module")
def bricks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's package, installed."""
    folder = tmp_path_factory.mktemp("site")
    for name, text in re.findall(r'```python title="(\S+)"\n(.*?)```', PAGE, re.DOTALL):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    about = folder / "bricks-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: bricks\nVersion: 1.0\n")
    (point,) = re.findall(r'^(BrickTransformer2DModel) = "(.*)"$', PAGE, re.MULTILINE)
    (about / "entry_points.txt").write_text(
        f"[ditmesh.models]\n{point[0]} = {point[1]}\nBrokenTransformer = bricks.none:SPEC\n"
    )
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{Path(ditmesh.__file__).parents[1]}"}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, cwd=folder)


def test_a_package_offers_its_sheet_and_a_broken_one_is_told_when_it_is_needed(bricks: Path) -> None:
    done = run(bricks, "-c", SCRIPT)
    assert done.returncode == 0, done.stderr


def test_models_of_other_packages_are_listed(bricks: Path) -> None:
    done = run(bricks, "-m", "ditmesh", "models")
    assert done.returncode == 0, done.stderr
    assert "BrickTransformer2DModel" in done.stdout
    assert "the package bricks offers a fact sheet of BrokenTransformer" in done.stderr
    done = run(bricks, "-m", "ditmesh", "models", "BrickTransformer2DModel")
    assert done.returncode == 0, done.stderr
    assert "(BrickTransformer2DModel)" in done.stdout


def test_the_page_leads_to_a_check_that_passes(bricks: Path) -> None:
    (command,) = re.findall(r"```sh\nditmesh (check-model .*)\n```", PAGE)
    done = run(bricks, "-m", "ditmesh", *command.split())
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert done.returncode == 0, done.stdout + done.stderr
    assert {row[0] for row in rows} == {"tp2", "ulysses2", "ring2", "ulysses2.tp2"}
    assert len(rows) == 4 * 4 * 2
    assert {row[-1] for row in rows} == {"ok"}


def test_a_wrong_sheet_fails(bricks: Path) -> None:
    right = (bricks / "bricks" / "sheet.py").read_text()
    for name, wrong in {
        "blind": right.replace(', ("image",))', ")").replace("blocks.*.up", "blocks.*.upp"),
        "style": right.replace('up": "colwise"', 'up": "columnwise"'),
    }.items():
        assert wrong != right
        (bricks / "bricks" / f"{name}.py").write_text(wrong)
    check = ("-m", "ditmesh", "check-model")
    done = run(bricks, *check, "bricks.blind:SPEC", "bricks.tiny:build", "--layouts", "ulysses2,tp2")
    assert done.returncode == 1
    assert re.search(r"^ulysses2 .* WRONG$", done.stdout, re.MULTILINE)
    assert re.search(r"^tp2 .* refused: Brick\S+ has no module named 'blocks.*.upp'", done.stdout, re.MULTILINE)
    done = run(bricks, *check, "bricks.style:SPEC", "bricks.tiny:build")
    assert done.returncode == 2
    assert "tp_plan['blocks.*.up'] is 'columnwise'; use colwise" in done.stderr
    done = run(bricks, *check, "bricks.sheet:NONE", "bricks.tiny:build")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


SHEET = ModelSpec(
    "Made", "Made", (Blocks("blocks"),), {"blocks.*.a|b.-1?": "colwise"}, {"": {"x": Split(1)}},
    {"blocks.*.attn": Attention("P", ("image",))},
)  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), [
    ({"blocks": (Blocks("blocks..x"),)}, "blocks names 'blocks..x', which is no glob"),
    ({"tp_plan": {"blocks.**": "colwise"}}, "tp_plan names"),
    ({"tp_plan": {"a": "colwize"}}, "'colwize'; use colwise"),
    ({"tp_plan": {"a": Fused("rowwise", ("head",))}}, "parts 'heads', 'rest'"),
    ({"cp_plan": {"": {"x": Split(1)}, "y": Gather(1, "txt")}}, "stream 'txt', which no Split cuts; use one of image"),
    ({"attention": {"a": Attention("P", ("text",))}}, "attends along 'text'"),
])  # fmt: skip
def test_what_is_wrong_in_a_sheet_is_told(changes: dict, message: str) -> None:
    check_sheet(SHEET)
    with pytest.raises(ValueError, match=re.escape(message)):
        register(replace(SHEET, **changes))


def test_our_own_sheets_are_well_formed() -> None:
    for spec in [*SPECS.values(), *CONTROLNETS.values()]:
        check_sheet(spec)


def test_a_class_has_one_sheet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SPECS, "Made", SHEET)
    ditmesh.register(SHEET)
    other = replace(SHEET, title="Other")
    with pytest.raises(ValueError, match=r"Made has a fact sheet already .* replace=True"):
        ditmesh.register(other)
    ditmesh.register(other, replace=True)
    assert spec_of("Made") is other
