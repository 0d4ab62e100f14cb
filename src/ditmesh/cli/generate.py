"""`ditmesh generate`: draw one picture or video, on one process or on many ranks."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer

from ditmesh.cli.flags import takes
from ditmesh.cli.job import Job, World, check_launched, prepare
from ditmesh.cli.options import Options
from ditmesh.runtime.launch import describe, launch, speak_once
from ditmesh.runtime.terminal import shown

MODULE = "ditmesh.generate"
WRONG_INPUT = 2  # the exit code of a refusal, as of the command line parser itself
FAILED = 1


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
        from ditmesh.cli.summary import print_examples

        print_examples()
        return
    with refusals(World()):
        world = World.read(os.environ)
    with refusals(world):
        job = prepare(options, world)
    if job.layout.world_size > 1 and not world.launched:
        raise typer.Exit(start_ranks(job, world, context.obj))
    raise typer.Exit(be_a_rank(job, world))


@contextmanager
def refusals(world: World) -> Iterator[None]:
    """Turn a refusal into one line on stderr, of rank 0 alone, and the exit of every rank."""
    try:
        yield
    except ValueError as error:
        if world.rank == 0:
            print(f"Error: {shown(' '.join(str(error).split()))}", file=sys.stderr)
        raise typer.Exit(WRONG_INPUT) from error


@contextmanager
def failures(world: World) -> Iterator[None]:
    """Of one process, tell in one line what a user can cause; of many ranks, their launcher tells."""
    try:
        yield
    except ValueError as error:
        if world.size > 1:
            raise
        print(f"Error: {shown(describe(error), lines=True)}", file=sys.stderr)
        raise typer.Exit(FAILED) from error


def start_ranks(job: Job, world: World, arguments: Sequence[str]) -> int:
    from ditmesh.cli.devices import check_bearable, check_devices

    with refusals(world):
        check_devices(job, job.layout.world_size)
        if not job.options.oversubscribe:
            check_bearable(job.layout, job.layout.world_size, job.model)
    return launch(MODULE, arguments, job.layout.world_size)


def be_a_rank(job: Job, world: World) -> int:
    from ditmesh.cli.quiet import keep_quiet, quiet_imports

    speak_once()
    quiet_imports()
    from ditmesh.cli.checks import check_job
    from ditmesh.cli.devices import check_devices
    from ditmesh.cli.run import run

    with refusals(world):
        check_devices(job, world.ranks_here)
        job = check_job(job, world)
    with refusals(World()):  # whichever rank this takes itself for
        check_launched(os.environ)
    keep_quiet(world.rank == 0)
    with failures(world):
        return run(job, world)
