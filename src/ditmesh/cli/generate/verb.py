"""`ditmesh generate`: draw one picture or video, on one process or on many ranks."""

from typing import Any

import typer

from ditmesh.cli.flags import takes
from ditmesh.cli.generate.job import describe_job
from ditmesh.cli.generate.options import Options
from ditmesh.cli.ranks import check_launch, check_rank, failures, read_world, refusals
from ditmesh.runtime.launch import launch

MODULE = "ditmesh.generate"


@takes(Options)
def generate(context: typer.Context, **flags: Any) -> None:
    """Draw a picture or a video with one of the examples.

    \b
    It starts its own ranks:
      ditmesh generate demo --parallel ulysses2
    Under torchrun it is one of them:
      torchrun --nproc_per_node=2 -m ditmesh.generate demo --parallel ulysses
    """
    options = Options(**flags)
    if options.example == "list":
        # Imported here, as torch is below: `--help` has no use for it.
        from ditmesh.cli.examples.table import print_examples

        print_examples()
        return
    world = read_world()
    with refusals(world):
        job = describe_job(options, world)
    if job.layout.world_size > 1 and not world.launched:
        check_launch(job, job.layout.world_size, options.oversubscribe)
        if not options.dry_run:
            raise typer.Exit(launch(MODULE, context.obj, job.layout.world_size))
    job = check_rank(job, world)
    from ditmesh.cli.generate.run import look, run

    with failures(world):
        raise typer.Exit(look(job, options, world) if options.dry_run else run(job, options, world))
