"""The pages that are printed from what they describe: `python -m tests.docs.pages` writes them."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from ditmesh.cli.app import app

DOCS = Path(__file__).parents[2] / "docs"
FLAGS = """\
# Flags

Every flag of every command, in all its spellings. This page is printed from the commands themselves, as `--help` of
each is.
"""


def flags() -> str:
    """The page of all flags."""
    lines = [FLAGS]
    for verb, command in typer.main.get_command(app).commands.items():
        lines += [f"## ditmesh {verb}", "", command.help.partition("\n")[0], ""]
        sections: dict[str, list[str]] = {}
        for parameter in command.params:
            if vars(parameter).get("hidden"):  # flags that are no more
                continue
            sections.setdefault(_section(parameter), []).append(_row(parameter))
        for title, rows in sections.items():
            lines += [f"### {title} of {verb}", "", "| flag | meaning |", "|---|---|", *rows, ""]
    return "\n".join(lines)


def _section(parameter: Any) -> str:
    default = "Arguments" if parameter.param_type_name == "argument" else "Options"
    return parameter.rich_help_panel or default


def _row(parameter: Any) -> str:
    names = [*parameter.opts, *parameter.secondary_opts]
    if parameter.param_type_name == "argument":
        names = [parameter.metavar or parameter.name.upper()]
    help = re.sub(r"([|<])", r"\\\1", " ".join(parameter.help.split()))
    return f"| {', '.join(f'`{name}`' for name in names)} | {help} |"


PRINTED: dict[str, Callable[[], str]] = {"flags.md": flags}


def main() -> None:
    for name, page in PRINTED.items():
        (DOCS / name).write_text(page(), "utf-8")


if __name__ == "__main__":
    main()
