"""`ditmesh t2i`: draw a file of prompts on replicas of one model."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from queue import SimpleQueue
from types import FrameType
from typing import Any

import typer

from ditmesh.cli.auto import AUTO, choose, ranks_there_are, warn_if_too_large
from ditmesh.cli.flags import takes
from ditmesh.cli.ranks import check_launch, failures, read_world, refusals
from ditmesh.cli.t2i.job import Batch, describe_batch
from ditmesh.cli.t2i.log import kept_logs
from ditmesh.cli.t2i.options import BatchOptions
from ditmesh.runtime.terminal import shown
from ditmesh.runtime.world import World

SHOW_CURSOR = "\x1b[?25h"
SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
    with ExitStack() as closing:
        with refusals(world):
            options = with_layout(options, world)
            batch = describe_batch(options, world)
            if world.rank:
                raise typer.Exit  # under torchrun its first process does it all
            if options.prompts_file is not None:
                # Imported here: `--help` has no use for it.
                from ditmesh.batch.files import STANDARD_INPUT, check_file, spooled

                if options.prompts_file == STANDARD_INPUT:
                    file = closing.enter_context(spooled(sys.stdin.buffer))
                    batch = replace(batch, options=replace(options, prompts_file=file))
                check_file(batch.options.prompts_file or STANDARD_INPUT)
        raise typer.Exit(work(batch))


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


def work(batch: Batch) -> int:
    """Start the replicas and draw; the exit code."""
    job, options = batch.job, batch.options
    if options.engine == "local" and job.layout.world_size > 1:
        check_launch(job, job.layout.world_size, options.oversubscribe)
    from ditmesh.batch.folder import LOCK, held
    from ditmesh.replicas.engines import engine_of
    from ditmesh.replicas.local import visible_gpus
    from ditmesh.replicas.supervisor import Supervisor

    with ExitStack() as closing:
        written = closing.enter_context(kept_logs(None if options.dry_run else options.log_dir, batch.debug))
        with refusals(World()):
            engine = engine_of(options.engine, batch.replicas.stop - 1, options.ray_address, written)
            if (options.output_dir / LOCK).exists():
                with held(options.output_dir):  # before a second job takes memory of the first one's devices
                    pass
        if options.dry_run:
            from ditmesh.cli.t2i.run import look

            return look(batch)
        one, events = replace(job, layout=replace(job.layout, dp_size=1)), SimpleQueue[Any]()
        closing.enter_context(stoppable(batch))
        closing.enter_context(failures(World()))
        supervisor = closing.enter_context(Supervisor(one, engine, batch.replicas, events.put))
        if options.engine == "local" and not options.no_check and visible_gpus():
            warn_if_too_large(job)  # with it comes torch, which the ranks are importing by now as well
        from ditmesh.cli.t2i.run import draw

        return draw(batch, supervisor, events)


class StoppedBy(BaseException):
    """A signal asked this process to end."""


@contextmanager
def stoppable(batch: Batch) -> Iterator[None]:
    """Let an interrupt end the replicas, and say what is kept."""

    def stop(number: int, frame: FrameType | None) -> None:
        for one in SIGNALS:
            signal.signal(one, signal.SIG_IGN)  # impatience must not leave anyone behind
        raise StoppedBy(number)

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    except StoppedBy as stopped:
        (number,) = stopped.args
        if sys.stderr.isatty():
            print(SHOW_CURSOR, end="", file=sys.stderr)
        ranks = batch.job.layout.world_size
        others = f", and all {ranks} ranks with it" if ranks > 1 else ""
        print(f"stopped by {signal.Signals(number).name}{others}", file=sys.stderr)
        say_what_is_kept(batch)
        raise typer.Exit(128 + number) from stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def say_what_is_kept(batch: Batch) -> None:
    from ditmesh.batch.folder import MANIFEST

    folder = batch.options.output_dir
    if (folder / MANIFEST).exists():
        with (folder / MANIFEST).open("rb") as file:
            count = sum(1 for _ in file)
        print(f"{count} finished pictures are in {shown(folder)}; the same command goes on from there.")
