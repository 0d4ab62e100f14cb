"""What every verb does around its work: refuse in one line, tell failures in one line, be one rank."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from ditmesh.runtime.launch import FAILED, REFUSED, describe, is_refusal, speak_once
from ditmesh.runtime.terminal import shown
from ditmesh.runtime.world import World, check_launched

if TYPE_CHECKING:
    from ditmesh.job.description import Job

STRAY = "This is rank {} of {}, as RANK says; unset RANK if nothing launched it as one."


@contextmanager
def refusals(world: World) -> Iterator[None]:
    """Turn a refusal into one line on stderr, of one rank of a machine, and the exit of every rank.

    Nobody may stand behind a RANK that no torchrun set, so that whoever has it tells.
    """
    try:
        yield
    except ValueError as error:
        under_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
        if world.local_rank == 0 or not under_torchrun:
            alone = "" if world.rank == 0 or under_torchrun else f" ({STRAY.format(world.rank, world.size)})"
            print(f"Error: {shown(' '.join(str(error).split()))}{alone}", file=sys.stderr)
        raise typer.Exit(REFUSED) from error


@contextmanager
def failures(world: World) -> Iterator[None]:
    """Of one process, tell in one line what a user can cause; of many ranks, their launcher tells."""
    try:
        with file_errors():
            yield
    except ValueError as error:
        if world.size > 1:
            raise
        print(f"Error: {shown(describe(error), lines=True)}", file=sys.stderr)
        raise typer.Exit(REFUSED if is_refusal(error) else FAILED) from error


@contextmanager
def file_errors() -> Iterator[None]:
    """A file or folder that cannot be had is what a user can cause: a ValueError that names it."""
    try:
        yield
    except OSError as error:
        if not isinstance(error.filename, str):
            raise
        why = f"cannot use {error.filename}: {error.strerror}"
        raise ValueError(f"{why}; see that it is there, and has room and rights for this user.") from error


def read_world() -> World:
    """Which rank this process is, or the refusal of variables that say it wrongly."""
    with refusals(World()):
        return World.read(os.environ)


def check_launch(job: "Job", ranks_here: int, oversubscribe: bool) -> None:
    """Refuse, before ranks are started, what this machine and its devices cannot do."""
    from ditmesh.job.devices import check_bearable, check_devices

    with refusals(World()):
        check_devices(job, ranks_here)
        if not oversubscribe:
            check_bearable(job.layout, ranks_here, job.model)


def check_rank(job: "Job", world: World) -> "Job":
    """As one rank: refuse what the devices or the pipeline cannot do; the job with its images opened."""
    # Imported here: `--help` has no use for it.
    from ditmesh.cli.quiet import keep_quiet, quiet_imports

    speak_once()
    quiet_imports()
    from ditmesh.job.classes import check_job
    from ditmesh.job.devices import check_devices

    with refusals(World()):  # whichever rank this takes itself for
        check_launched(os.environ)
    with refusals(world):
        check_devices(job, world.ranks_here)
        job = check_job(job, world)
    keep_quiet(world.rank == 0)
    return job
