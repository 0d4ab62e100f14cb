"""`ditmesh t2i`: draw a file of prompts, on one process or on many ranks."""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import typer

from ditmesh.cli.auto import AUTO, choose, ranks_there_are, warn_if_too_large
from ditmesh.cli.flags import takes
from ditmesh.cli.ranks import FAILED, check_launch, check_rank, failures, read_world, refusals
from ditmesh.cli.t2i.job import Batch, describe_batch
from ditmesh.cli.t2i.options import BatchOptions
from ditmesh.runtime.launch import launch
from ditmesh.runtime.terminal import shown
from ditmesh.runtime.world import World

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
    world = read_world()
    options = BatchOptions(**flags)
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks
    with refusals(world):
        options = with_layout(options, world)
        batch = describe_batch(options, world)
        if options.prompts_file is not None:
            # Imported here: `--help` has no use for it.
            from ditmesh.batch.files import check_file

            check_file(options.prompts_file)
    if not options.no_check and world.rank == 0:
        warn_if_too_large(batch.job)
    if batch.job.layout.world_size > 1 and not world.launched:
        decided = ["--no-check"] if options.parallel is None else ["--no-check", "--parallel", options.parallel]
        raise typer.Exit(start_ranks(batch, [*context.obj, *decided]))
    raise typer.Exit(be_a_rank(batch, world))


def with_layout(options: BatchOptions, world: World) -> BatchOptions:
    """The flags with the layout that was chosen, if that was left to us.

    Raises:
        ValueError: this machine or the model is unknown, or no layout fits.
    """
    if options.parallel != AUTO:
        return options
    ranks = world.ranks(options.num_gpus, "--num_gpus")
    alone = describe_batch(replace(options, parallel=None, num_gpus=None, shard_weights=False), World())
    layout = choose(
        alone.job,
        ranks_there_are(ranks, "--num_gpus"),
        exactly=ranks is not None,
        shard=options.shard_weights,
        throughput=options.prompts_file is not None,
        first=world.rank == 0,
    )
    return replace(options, parallel=str(layout))


def start_ranks(batch: Batch, arguments: Sequence[str]) -> int:
    from ditmesh.cli.t2i.machines import batch_facts

    check_launch(batch.job, batch.ranks_here, batch.options.oversubscribe)
    with refusals(World()):
        facts = batch_facts(batch) if batch.nodes else {}
        code = launch(MODULE, [VERB, *arguments], batch.ranks_here, batch.nodes, facts)
    if code > FAILED:
        if sys.stderr.isatty():
            print(SHOW_CURSOR, end="", file=sys.stderr)
        if code >= 128 and (batch.nodes is None or batch.nodes.node == 0):
            say_what_is_kept(batch)
    return code


def say_what_is_kept(batch: Batch) -> None:
    from ditmesh.batch.manifest import NAME

    folder = batch.options.output_dir
    if (folder / NAME).exists():
        with (folder / NAME).open("rb") as file:
            count = sum(1 for _ in file)
        print(f"{count} finished pictures are in {shown(folder)}; the same command goes on from there.")


def be_a_rank(batch: Batch, world: World) -> int:
    job = check_rank(batch.job, world)
    from ditmesh.api import leave_ranks
    from ditmesh.cli.t2i.run import run
    from ditmesh.runtime.store import job_store

    with failures(world):
        code = run(batch, job, world, job_store())
        leave_ranks()
        return code
