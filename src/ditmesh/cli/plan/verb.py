"""`ditmesh plan`: which layouts fit on a machine, and how long each would take; nothing is loaded."""

from typing import Any

import typer

from ditmesh.cli.flags import takes
from ditmesh.cli.plan.job import describe_plan
from ditmesh.cli.plan.options import PlanOptions
from ditmesh.cli.ranks import read_world, refusals


@takes(PlanOptions)
def plan(context: typer.Context, **flags: Any) -> None:
    """Predict memory and time of every layout of a model on a machine that need not be here.

    \b
      ditmesh plan flux2 --gpus 8xL20 --parallel-text
      ditmesh plan demo --gpus 2xthis
    Each layout's own program runs on tensors without memory; its work is priced by what the devices can do.
    Exit codes: 0 a layout fits, 1 none does, 2 wrong usage.
    """
    options = PlanOptions(**flags)
    with refusals(read_world()):
        job, ask = describe_plan(options)
    # Imported here: `--help` has no use for it.
    from ditmesh.cli.plan.table import look

    raise typer.Exit(look(job, ask, options))
