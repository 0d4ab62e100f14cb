"""`ditmesh check-model`: whether a fact sheet makes its model run right on many ranks."""

import os
import sys
from itertools import groupby
from pkgutil import resolve_name
from typing import Annotated, Any

import typer

from ditmesh import ParallelismConfig
from ditmesh.cli.ranks import failures, refusals
from ditmesh.runtime.launch import launch
from ditmesh.runtime.world import World
from ditmesh.sheets import check_sheet
from ditmesh.spec import ModelSpec

LAYOUTS = "tp2,ulysses2,ring2,ulysses2.tp2"


def check_model(
    sheet: Annotated[str, typer.Argument(metavar="SHEET", help="The sheet, as module:NAME.", show_default=False)],
    build: Annotated[
        str,
        typer.Argument(
            metavar="BUILD",
            help="module:NAME of a function build(batch, (height, width), text, masked), which returns a tiny model "
            "and a dict of inputs for so many tokens.",
            show_default=False,
        ),
    ],
    layouts: Annotated[str, typer.Option(metavar="LAYOUT,...", help="What to compare to one process.")] = LAYOUTS,
    masked: Annotated[bool, typer.Option("--masked", help="The model takes padding masks; check them too.")] = False,
) -> None:
    """Check a fact sheet: a tiny model on ranks of this CPU, compared to one process in float64 and float32.

    \b
      ditmesh check-model bricks.sheet:SPEC bricks.tiny:build
    Exit codes: 0 all equal, 1 some are not or were refused, 2 wrong usage.
    """
    world = World.read(os.environ)
    sys.path.insert(0, os.getcwd())  # as python -m has it
    with refusals(world):
        spec, function = _resolve(sheet), _resolve(build)
        if not isinstance(spec, ModelSpec):
            raise ValueError(f"{sheet} is a {type(spec).__name__}, and should be a ditmesh.spec.ModelSpec.")
        check_sheet(spec)
        parsed = {name: ParallelismConfig.parse(name) for name in layouts.split(",")}
    if world.launched:
        with failures(world):
            raise typer.Exit(_be_a_rank(spec, function, list(parsed), masked, world))
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # gloo ranks, wherever this runs
    print(f"{'layout':<16} {'shape':<8} {'dtype':<8} {'error':<8}", flush=True)
    codes = []
    for size, group in groupby(sorted(parsed, key=lambda x: parsed[x].world_size), lambda x: parsed[x].world_size):
        flags = ["--layouts", ",".join(group), *(["--masked"] if masked else [])]
        codes.append(launch("ditmesh", ["check-model", sheet, build, *flags], size))
    raise typer.Exit(max(codes))


def _resolve(name: str) -> Any:
    try:
        return resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{name} cannot be imported: {error}; name it as module:NAME.") from error


def _be_a_rank(spec: ModelSpec, build: Any, layouts: list[str], masked: bool, world: World) -> int:
    from ditmesh.cli.quiet import keep_quiet, quiet_imports

    quiet_imports()
    import torch

    from ditmesh.api import leave_ranks
    from ditmesh.cli.check_model.parity import compare

    keep_quiet(False)
    right = True
    with torch.no_grad():
        for row in compare(spec, build, layouts, masked):
            right = right and row.is_right
            if world.rank == 0:
                print(row, flush=True)
    leave_ranks()
    # One rank tells: the launcher ends the others as soon as one has failed, and would tell of that instead.
    return 0 if right or world.rank else 1
