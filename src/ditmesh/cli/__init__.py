"""The `ditmesh` command: a thin skin, one file per verb."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import ditmesh
from ditmesh.cli.generate import generate
from ditmesh.cli.models import models

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
app.command(no_args_is_help=True)(generate)
app.command()(models)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"ditmesh {ditmesh.__version__}")
        raise typer.Exit


@app.callback()
def verbs(
    version: Annotated[bool, typer.Option("--version", help="Show the version.", callback=_print_version)] = False,
) -> None:
    """Run one diffusion transformer on many devices, exactly."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command `ditmesh`; exits the process."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # A click command, not Typer's call, which takes sys.excepthook away from the ranks.
    # What follows the verb goes along for the ranks that it may start.
    typer.main.get_command(app).main(args=list(arguments), prog_name="ditmesh", obj=tuple(arguments[1:]))


def main_generate() -> None:
    """`python -m ditmesh.generate [generate] EXAMPLE ...`, which is `ditmesh generate EXAMPLE ...`."""
    arguments = sys.argv[1:]
    main(["generate", *(arguments[1:] if arguments[:1] == ["generate"] else arguments)])
