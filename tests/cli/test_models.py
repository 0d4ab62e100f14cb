"""`ditmesh models` says what the sheets and the code say, at every width, and the documentation repeats it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from ditmesh import ParallelismConfig
from ditmesh.checks import check_layout
from ditmesh.cli import main
from ditmesh.cli.models.matrix import SHEETS, facts_of, find, tables
from ditmesh.cli.models.verb import default_config, page, print_model, print_table
from ditmesh.models import AUTOENCODERS, SPECS, TEXT_ENCODERS
from ditmesh.spec import Refuse
from tests.parallel import text_encoders, vaes
from tests.ranks import Ranks

CLASSES = [*(name for _, _, specs in SHEETS for name in specs), *TEXT_ENCODERS, *AUTOENCODERS]
WHOLE = {name for name, whole in TEXT_ENCODERS.items() if whole == ("",)}


def shown(width: int) -> list[str]:
    console = Console(width=width, force_terminal=True, color_system=None, highlight=False, markup=False)
    with console.capture() as captured:
        for table in tables():
            print_table(console, table)
    return captured.get().splitlines()


def test_every_class_has_a_row() -> None:
    assert set(SPECS) <= set(CLASSES)
    rows = [row["CLASS"] for table in tables() for row in table.rows]
    assert sorted(rows) == sorted((name,) for name in CLASSES)


def test_the_listed_text_encoders_are_those_held_to_one_process(ranks: Ranks) -> None:
    built = {name: name.partition("-")[0] for name in text_encoders.ENCODERS}
    assert set(built.values()) == set(TEXT_ENCODERS) - WHOLE
    for name, kind in built.items():
        lines = ranks.run(text_encoders.kept_whole, 2, 2, name)[0]
        assert tuple(line.partition(" (")[0] for line in lines) == TEXT_ENCODERS[kind]


def test_the_listed_autoencoders_are_those_held_to_one_process() -> None:
    takes = {case.cls: "BCHW" if case.frames is None else "BCFHW" for case in vaes.CASES.values()}
    assert takes == {name: known.takes for name, known in AUTOENCODERS.items()}


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_a_terminal_shows_every_name_whole(width: int) -> None:
    lines = shown(width)
    assert max(map(len, lines)) <= width
    words = {word for line in lines for word in line.split()}
    assert set(CLASSES) <= words
    titles = [line for line in lines if not line.startswith(" ")]
    assert all(any(line.startswith(f"{spec.title} ") for line in titles) for spec in SPECS.values())
    assert any("CP without attention_mask" in line for line in lines)


def test_a_pipe_gets_a_line_for_each_row() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    command = [sys.executable, "-m", "ditmesh", "models"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    lines = done.stdout.splitlines()
    assert done.stderr == ""
    assert all(sum(name in line.split() for line in lines) == 1 for name in CLASSES)
    flux = next(line for line in lines if line.startswith("FLUX.1 "))
    assert flux.split() == [
        "FLUX.1", "FluxTransformer2DModel", "yes", "text,", "image", "transformer_blocks,", "single_transformer_blocks",
    ]  # fmt: skip
    assert all(line == line.rstrip() for line in lines)


def test_the_matrix_needs_no_torch() -> None:
    script = (
        "import sys\nfrom ditmesh.cli import main\n"
        "try: main(['models'])\nexcept SystemExit as end: assert not end.code\n"
        "sys.exit(str(sorted({'torch', 'diffusers', 'transformers', 'numpy'} & set(sys.modules))))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stderr.strip() == "[]"


@pytest.mark.parametrize("name", SPECS)
def test_one_model_tells_all_its_sheet_knows(name: str) -> None:
    spec, config = SPECS[name], default_config(name)
    facts = facts_of(name, config)
    text = "\n".join(f"{key} {value}" for kind in facts for key, value in kind.rows)
    assert all(blocks.path in text for blocks in spec.blocks)
    assert all(pattern.rpartition("*.")[2] in text for pattern in spec.tp_plan if not pattern.endswith("*"))
    assert all(f"{pattern} {reason}" in text for pattern, reason in spec.replicated.items())
    assert all(path in text for path in [*spec.cp_plan, *spec.attention])
    plans = [plan for plan in spec.cp_plan.values() if isinstance(plan, dict)]
    refused = {key: cut.why for plan in plans for key, cut in plan.items() if isinstance(cut, Refuse)}
    assert all(f"{key}: {why}" in text for key, why in refused.items())
    assert all(f"{key} only {', '.join(map(str, values[:-1]))}" in text for key, values in spec.covers.items())
    assert takes(name, config) == next(value for kind in facts for key, value in kind.rows if key == "tp_size")


def takes(name: str, config: dict) -> str:
    """The sizes of tensor parallelism that the layout check lets through."""
    fits = []
    for size in range(1, SPECS[name].count_heads(config) + 1):
        try:
            check_layout(ParallelismConfig(tp_size=size), name, config)
        except ValueError:
            continue
        fits.append(str(size))
    return f"{', '.join(fits[:-1])} or {fits[-1]}"


@pytest.mark.parametrize("width", [80, 120])
def test_one_model_fits_the_terminal(width: int) -> None:
    for name in (
        "Flux2Transformer2DModel",
        "Kandinsky6Transformer3DModel",
        "PixArtTransformer2DModel",
        "AutoencoderKL",
    ):
        console = Console(width=width, force_terminal=True, color_system=None, highlight=False, markup=False)
        with console.capture() as captured:
            print_model(console, name, facts_of(name))
        lines = captured.get().splitlines()
        assert max(map(len, lines)) <= width
        assert lines[0].endswith(f"({name})") or lines[0] == name
        words = {word for line in lines for word in line.split()}
        assert {key for kind in facts_of(name) for key, _ in kind.rows if " " not in key} <= words
    assert "[B, C, H, W]" in captured.get()


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("FLUX.1", "FluxTransformer2DModel"),
        ("flux 2", "Flux2Transformer2DModel"),
        ("wan", "WanTransformer3DModel"),
        ("FluxTransformer2DModel", "FluxTransformer2DModel"),
        ("umt5", "UMT5EncoderModel"),
        ("autoencoderdc", "AutoencoderDC"),
    ],
)
def test_a_model_is_found_by_title_or_class(name: str, found: str) -> None:
    assert find(name) == found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["flux"], "Error: 'flux' may be FLUX.1, FLUX.2, FLUX.3 or FluxControlNetModel; name one of them."),
        (["Chrome"], "Error: nothing here is called 'Chrome'; did you mean Chroma or ChronoEdit?"),
        (["xyz"], "Error: nothing here is called 'xyz'; `ditmesh models` lists all there is."),
        ([""], "Error: nothing here is called ''; `ditmesh models` lists all there is."),
        (["wan", "--markdown"], "Error: --markdown prints the page of all models; leave out NAME or --markdown."),
    ],
)
def test_a_typo_is_told_what_was_meant(capsys: pytest.CaptureFixture, arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(["models", *arguments])
    assert end.value.code == 2
    assert capsys.readouterr() == ("", f"{message}\n")


def test_the_documentation_is_what_the_command_prints(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["models", "--markdown"])
    printed = capsys.readouterr().out
    assert printed == "\n".join(page())
    assert (Path(__file__).parents[2] / "docs" / "models.md").read_text("utf-8") == printed
