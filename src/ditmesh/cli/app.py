"""The verbs of `ditmesh`, one file each."""

from typing import Annotated

import typer

import ditmesh
from ditmesh.cli.bench.verb import bench
from ditmesh.cli.check_model.verb import check_model
from ditmesh.cli.flags import Sections
from ditmesh.cli.generate.verb import generate
from ditmesh.cli.models.verb import models
from ditmesh.cli.plan.verb import plan
from ditmesh.cli.selftest.verb import selftest
from ditmesh.cli.serve.verb import serve
from ditmesh.cli.t2i.verb import t2i

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]},
)
app.command(cls=Sections, no_args_is_help=True)(generate)
app.command(cls=Sections, no_args_is_help=True)(t2i)
app.command(cls=Sections, no_args_is_help=True)(serve)
app.command(cls=Sections, no_args_is_help=True)(bench)
app.command(cls=Sections, no_args_is_help=True)(plan)
app.command()(models)
app.command(no_args_is_help=True)(check_model)
app.command()(selftest)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"ditmesh {ditmesh.__version__}")
        raise typer.Exit


@app.callback()
def verbs(
    version: Annotated[bool, typer.Option("--version", help="Show the version.", callback=_print_version)] = False,
) -> None:
    """Run one diffusion transformer on many devices, exactly."""
