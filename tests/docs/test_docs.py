"""The documentation is true where it can be checked: its code, layouts, flags, messages and links."""

import ast
import re
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

import ditmesh
from ditmesh import ParallelismConfig
from ditmesh.checks import check_layout
from ditmesh.cli.app import app
from ditmesh.config import AXES, WORDS
from tests.docs.pages import PRINTED

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {path.name: path.read_text("utf-8") for path in sorted(DOCS.glob("*.md"))}
PIPE = SimpleNamespace(text_encoder=object(), vae=object())


def blocks(language: str) -> list[str]:
    return [code for text in PAGES.values() for code in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)]


def test_every_page_is_in_the_menu() -> None:
    menu = (DOCS.parent / "mkdocs.yml").read_text("utf-8").partition("nav:")[2]
    assert sorted(re.findall(r"\S+\.md", menu)) == sorted(PAGES)


def test_every_configuration_in_the_code_can_be_made() -> None:
    calls = [
        node
        for code in blocks("python")
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("ParallelismConfig")
    ]
    assert len(calls) >= 9
    names = {"ParallelismConfig": ParallelismConfig, "pipe": PIPE}
    made = [eval(ast.unparse(call), dict(names)) for call in calls]
    assert {config.world_size for config in made} == {2, 8}
    with_modules = [config.extra_parallel_modules for config in made if config.extra_parallel_modules]
    given, named = (PIPE.text_encoder, PIPE.vae), ("text_encoder", "vae")
    assert sorted(map(str, with_modules)) == sorted(map(str, [given, given, named]))
    asserted = [code for code in blocks("python") if code.startswith("assert")]
    assert asserted
    for code in asserted:
        exec(code, dict(names))


def test_words_share_out_ranks_as_the_table_says() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| `(.*?)` \|$", PAGES["parallelism.md"], re.MULTILINE)
    rows = [row for row in rows if row[0] in WORDS]
    assert [word for word, *_ in rows] == list(WORDS)
    for word, four, eight in rows:
        assert str(ParallelismConfig.parse(word, 8)) == eight
        if four.startswith("`"):
            assert str(ParallelismConfig.parse(word, 4)) == four.strip("`")
        else:
            with pytest.raises(ValueError, match="on 8 ranks, not 4"):
                ParallelismConfig.parse(word, 4)


def test_the_refusal_is_the_one_that_comes() -> None:
    (shown,) = [code for code in blocks("text") if code.startswith("ValueError")]
    with pytest.raises(ValueError, match="tp_size=5") as error:
        check_layout(ParallelismConfig(tp_size=5), "FluxTransformer2DModel", {"num_attention_heads": 24})
    assert " ".join(shown.split()) == f"ValueError: {error.value}"


def _spellings(option: Any) -> list[str]:
    return [*option.opts, *option.secondary_opts]


def test_every_flag_and_layout_of_a_command_exists() -> None:
    verbs = typer.main.get_command(app).commands
    known = {flag for verb in verbs.values() for option in verb.params for flag in _spellings(option)}
    lines = [line for code in blocks("sh") for line in code.splitlines() if "ditmesh" in line and "pip" not in line]
    tables = [
        row
        for row in f"{PAGES['generate.md']}\n{PAGES['batch.md']}".splitlines()
        if row.startswith("| `") and "--" in row
    ]
    inline = re.findall(r"`(ditmesh [^`]*)`", "\n".join(PAGES.values()))
    assert len(lines) >= 5
    for line in [*lines, *tables, *inline]:
        assert set(re.findall(r"--[a-z0-9_-]+", line)) <= known | {"--nproc_per_node"}, line
        assert line.startswith(("| `", "torchrun")) or line.split()[1] in verbs
        for layout in re.findall(r"--parallel (\S+)", line):
            assert layout in ("LAYOUT", "auto") or ParallelismConfig.parse(layout, 8).world_size > 1


def test_every_layout_in_the_text_is_spelled_right() -> None:
    spelled = chain.from_iterable(re.findall(r"[`\"]((?:[a-z]+\d+\.?)+)[`\"]", text) for text in PAGES.values())
    layouts = [text for text in spelled if text.rstrip("0123456789").split(".")[-1] in AXES]
    assert len(layouts) > 10
    assert all(str(ParallelismConfig.parse(layout)) == layout for layout in layouts)


def test_every_link_leads_somewhere() -> None:
    for name, text in PAGES.items():
        for target in re.findall(r"\]\(([^)#]+)", text):
            assert target.startswith("https://") or (DOCS / target).is_file(), (name, target)


@pytest.mark.parametrize("name", PRINTED)
def test_a_printed_page_is_what_is_printed_now(name: str) -> None:
    assert PAGES[name] == PRINTED[name](), "run python -m tests.docs.pages"


def test_every_spelling_of_every_flag_is_on_some_page() -> None:
    text = "\n".join(PAGES.values())
    verbs = typer.main.get_command(app).commands.values()
    flags = [name for verb in verbs for option in verb.params for name in _spellings(option) if name.startswith("-")]
    assert len(flags) > 100
    assert [flag for flag in flags if f"`{flag}`" not in text] == []


def test_every_public_name_is_in_the_reference() -> None:
    shown = set(re.findall(r"^::: ditmesh\.(\S+)", PAGES["reference.md"], re.MULTILINE))
    assert shown == {name for name in ditmesh.__all__ if name != "__version__"}
