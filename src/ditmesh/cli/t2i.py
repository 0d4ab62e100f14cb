"""`ditmesh t2i`: draw a file of prompts, on one process or on many ranks."""

import os
import sys
from collections.abc import Sequence
from typing import Any

import typer

from ditmesh.cli.flags import takes
from ditmesh.cli.generate import FAILED, failures, refusals
from ditmesh.cli.job import World, check_launched
from ditmesh.cli.t2i_job import BatchJob, prepare
from ditmesh.cli.t2i_options import BatchOptions
from ditmesh.runtime.launch import launch, speak_once
from ditmesh.runtime.machines import Nodes
from ditmesh.runtime.terminal import shown

MODULE, VERB = "ditmesh", "t2i"
SHOW_CURSOR = "\x1b[?25h"


@takes(BatchOptions)
def t2i(context: typer.Context, **flags: Any) -> None:
    """Draw pictures of one prompt or of a file of them.

    \b
    Each picture on 4 ranks, two at a time:
      ditmesh t2i --model_name FLUX.1-dev --prompts_file prompts.jsonl \\
          --ulysses_degree 4 --data_parallel_degree 2
    The variables DG_XDIT_ULYSSES_DEGREE ... mean the same; a flag goes before its variable.
    Exit codes: 0 all drawn, 1 some rows were not, 2 wrong usage, 130 interrupted.
    """
    with refusals(World()):
        world = World.read(os.environ)
    options = BatchOptions(**flags)
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks
    with refusals(world):
        job = prepare(options, world)
        if options.prompts_file is not None:
            # Imported here: `--help` has no use for it.
            from ditmesh.batch.files import check_file

            check_file(options.prompts_file)
    if job.layout.world_size > 1 and not world.launched:
        raise typer.Exit(start_ranks(job, context.obj))
    raise typer.Exit(be_a_rank(job, world))


def start_ranks(job: BatchJob, arguments: Sequence[str]) -> int:
    from ditmesh.cli.devices import check_bearable
    from ditmesh.cli.t2i_checks import check_devices, job_facts

    meeting = job.meeting
    nodes = None if meeting.nodes == 1 else Nodes(meeting.nodes, meeting.node, meeting.host, meeting.port)
    with refusals(World()):
        check_devices(job, job.ranks_here)
        if not job.options.oversubscribe:
            check_bearable(job.layout, job.ranks_here, job.model)
        code = launch(MODULE, [VERB, *arguments], job.ranks_here, nodes, job_facts(job) if nodes else {})
    if code > FAILED:
        if sys.stderr.isatty():
            print(SHOW_CURSOR, end="", file=sys.stderr)
        if code >= 128 and meeting.node == 0:
            say_what_is_kept(job)
    return code


def say_what_is_kept(job: BatchJob) -> None:
    from ditmesh.batch.manifest import NAME

    manifest = job.options.output_dir / NAME
    if manifest.exists():
        with manifest.open("rb") as file:
            count = sum(1 for _ in file)
        print(f"{count} finished pictures are in {shown(job.options.output_dir)}; the same command goes on from there.")


def be_a_rank(job: BatchJob, world: World) -> int:
    from ditmesh.cli.quiet import keep_quiet, quiet_imports

    speak_once()
    quiet_imports()
    from ditmesh.api import leave_ranks
    from ditmesh.batch.work_list import job_store
    from ditmesh.cli.t2i_checks import check_devices
    from ditmesh.cli.t2i_run import check_call, run

    with refusals(world):
        check_devices(job, world.ranks_here)
        takes = check_call(job)
    with refusals(World()):
        check_launched(os.environ)
    keep_quiet(world.rank == 0)
    with failures(world):
        code = run(job, world, takes, job_store())
        leave_ranks()
        return code
