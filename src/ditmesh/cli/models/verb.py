"""`ditmesh models`: what can be spread over ranks, all of it or one model, read off the sheets."""

import inspect
import sys
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from ditmesh.cli.models.matrix import Facts, Table, facts_of, find, sheet_of, tables
from ditmesh.cli.ranks import read_world, refusals
from ditmesh.runtime.terminal import shown
from ditmesh.sheets import find_sheet, offered

if TYPE_CHECKING:
    from rich.console import Console

WIDE = 118  # columns of a terminal where the title and the class of a model stand side by side
ROOMY = 98  # and where its sequences stand on one line
WORD = 9  # the longest name of a sequence, nearly
WRAPS = ("CP", "BLOCKS", "WHOLE ON EVERY RANK")
PROSE = 100
PAGE = """\
# Models

This page is printed by `ditmesh models --markdown`, from the sheets of facts the strategies themselves read.
`ditmesh models NAME` prints one of them: what is cut where, what is sharded and how, what stays whole and why.
A class that is not here is refused by name, and so is a configuration that its sheet does not cover.
"""


def models(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A model or a class, for all its facts.", show_default=False)
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the page of the documentation.")] = False,
) -> None:
    """Show which models can be spread over ranks, and how."""
    with refusals(read_world()):
        if name is not None and markdown:
            raise ValueError("--markdown prints the page of all models; leave out NAME or --markdown.")
        for model in [] if markdown else offered():  # the page is of ours alone
            _load(model)
        found = None if name is None else find(name)
    if markdown:
        print("\n".join(page()), end="")
        return
    from rich.console import Console  # `--help` has no use for it

    console = Console(highlight=False, markup=False)
    if found is None:
        for table in tables():
            print_table(console, table)
    else:
        print_model(console, found, facts_of(found, default_config(found) if sheet_of(found) else None))


def _load(model: str) -> None:
    """Make the sheet known that another package offers, or say what is wrong with it and go on."""
    try:
        find_sheet(model)
    except ValueError as error:
        print(f"Error: {shown(str(error))}", file=sys.stderr)


def default_config(name: str) -> dict[str, object] | None:
    """The configuration of a class of diffusers that is made without saying anything; None of another package's."""
    if name in offered():
        return None
    from ditmesh.job.classes import diffusers_class  # with it comes torch

    return {key: parameter.default for key, parameter in inspect.signature(diffusers_class(name)).parameters.items()}


def print_table(console: "Console", table: Table) -> None:
    """A table that fits the terminal; in a pipe a line for each row, however long."""
    from rich.table import Table as RichTable

    console.print(table.title if console.is_terminal else table.title.upper(), style="bold")
    for line in textwrap.wrap(table.about, min(console.width, PROSE)):
        console.print(line, style="dim")
    if not console.is_terminal:
        lines = [table.columns, *([", ".join(cell) for cell in row.values()] for row in table.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    else:
        columns, rows = _merge(table, ("CLASS", "LIMITS") if console.width >= WIDE else ("MODEL", "CLASS", "LIMITS"))
        shown = RichTable(box=None, padding=(0, 1, 0, 0), pad_edge=False)
        for column in columns:
            most = WORD if column == "CP" and console.width < ROOMY else None
            shown.add_column(column, no_wrap=column not in WRAPS, max_width=most, overflow="fold", header_style="bold")
        for row in rows:
            shown.add_row(*("\n".join(cell) for cell in row))
        console.print(shown)
    console.print()


def _merge(table: Table, together: tuple[str, ...]) -> tuple[list[str], list[list[tuple[str, ...]]]]:
    """The table with several columns in the first of them, the lines of the others indented."""
    first, *others = (column for column in table.columns if column in together)
    columns = [column for column in table.columns if column not in others]
    under = [tuple(f" {line}" for column in others for line in row[column]) for row in table.rows]
    merged = [{**row, first: row[first] + lines} for row, lines in zip(table.rows, under, strict=True)]
    return columns, [[row[column] for column in columns] for row in merged]


def print_model(console: "Console", name: str, facts: list[Facts]) -> None:
    """A heading for each kind of fact, and under it names and values."""
    from rich.table import Table as RichTable

    spec = sheet_of(name)
    console.print(f"{spec.title} ({name})" if spec else name, style="bold")
    for kind in facts:
        shown = RichTable(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
        shown.add_column(style="dim", no_wrap=True, overflow="fold")
        shown.add_column(overflow="fold")
        before = None
        for key, value in kind.rows:
            shown.add_row("" if key == before else f"  {key}", value)
            before = key
        console.print(f"\n{kind.title}", style="bold")
        console.print(shown)


def page() -> Iterator[str]:
    """The lines of the documentation's page."""
    yield PAGE
    for table in tables():
        yield f"## {table.title}\n\n{table.about}\n"
        yield f"| {' | '.join(column.capitalize() if len(column) > 2 else column for column in table.columns)} |"
        yield f"|{'---|' * len(table.columns)}"
        for row in table.rows:
            cells = ("<br>".join(_code(column, line) for line in cell) for column, cell in row.items())
            yield f"| {' | '.join(cells)} |"
        yield ""


def _code(column: str, text: str) -> str:
    return f"`{text}`" if text and column in ("CLASS", "BLOCKS", "TAKES") else text
