"""`ditmesh generate`: draw one picture or video, on one process or on many ranks."""

from dataclasses import replace
from typing import Any

import typer

from ditmesh.cli.auto import AUTO, choose, ranks_there_are, warn_if_too_large
from ditmesh.cli.flags import takes
from ditmesh.cli.generate.job import describe_job
from ditmesh.cli.generate.options import Options
from ditmesh.cli.ranks import check_launch, check_rank, failures, read_world, refusals
from ditmesh.runtime.launch import launch
from ditmesh.runtime.world import World

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
        options = with_layout(options, world)
        job = describe_job(options, world)
    if not options.no_check and world.rank == 0:
        warn_if_too_large(job)
    if job.layout.world_size > 1 and not world.launched:
        check_launch(job, job.layout.world_size, options.oversubscribe)
        decided = [*context.obj, "--parallel", str(job.layout), "--no-check"]
        raise typer.Exit(launch(MODULE, decided, job.layout.world_size))
    job = check_rank(job, world)
    from ditmesh.cli.generate.run import run

    with failures(world):
        raise typer.Exit(run(job, options, world))


def with_layout(options: Options, world: World) -> Options:
    """The flags with the layout that was chosen, if that was left to us.

    Raises:
        ValueError: this machine or the model is unknown, or no layout fits.
    """
    if options.parallel != AUTO:
        return options
    ranks = world.ranks(options.nproc, "--nproc")
    alone = replace(options, parallel=None, nproc=None, shard_weights=False, verify=False, num_pipeline_patch=None)
    alone = replace(alone, parallel_text=False, parallel_vae=False, parallel_controlnet=False)
    layout = choose(
        describe_job(replace(alone, pipeline_warmup_steps=None), World()),
        ranks_there_are(ranks, "--nproc"),
        exactly=ranks is not None,
        text=options.parallel_text,
        vae=options.parallel_vae,
        shard=options.shard_weights,
        first=world.rank == 0,
    )
    if layout.world_size > 1:
        return replace(options, parallel=str(layout))
    return replace(options, parallel=None, shard_weights=False, parallel_text=False, parallel_vae=False)
