"""`ditmesh selftest`: whether layouts are exact on this machine, and how fast it is."""

import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, TextIO

import typer

from ditmesh.cli.ranks import refusals
from ditmesh.cli.selftest.cases import cases
from ditmesh.runtime.launch import cores
from ditmesh.runtime.world import World

REPORT = Path("ditmesh-selftest.txt")
ONCE = ("machine", "messages", "rates")  # tasks that come first
SECONDS, SHARE = 180.0, 6  # in all, and which part of that one task may take


def selftest(
    nproc: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Ranks (one for each GPU; 2 on a CPU).", show_default=False),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=10, metavar="S", help="End after about so many seconds (180).", show_default=False)
    ] = SECONDS,
    report: Annotated[
        Path, typer.Option(metavar="FILE", help=f"Where to write the report ({REPORT}).", show_default=False)
    ] = REPORT,
) -> None:
    """Check every layout on this machine against one process, and measure the machine for `ditmesh plan`.

    \b
      ditmesh selftest
      ditmesh selftest --nproc 4
    Small models that come with ditmesh are drawn in every layout that so many ranks allow; nothing is downloaded. A
    rank that hangs costs its layout alone. The report is fit for a bug report.

    Exit codes: 0 all exact, 1 something is not or was not shown, 2 wrong usage.
    """
    with refusals(World()):
        ranks, device_type = _ranks(nproc)
        with _opened(report):
            pass
    from ditmesh.cli.selftest.gangs import run
    from ditmesh.cli.selftest.report import Report

    told = Report(ranks, device_type, dict(os.environ))
    until = time.time() + seconds
    # Guidance has two branches, for which an odd number of ranks is one too many.
    for world in (ranks, ranks - 1) if ranks % 2 and ranks > 2 else (ranks,):
        first = world == ranks
        asked = [case for case in cases(world, device_type) if first or "cfg" in case.layout]
        tasks = [{"task": task} for task in ONCE if first] + [{"case": asdict(case)} for case in asked]
        told.add(tasks, run(tasks, world, until, seconds / SHARE))
    told.write_entry()
    told.show()
    with _opened(report) as file:
        told.show(file)
    print(f"report: {report.resolve()}")
    raise typer.Exit(told.code)


def _ranks(asked: int | None) -> tuple[int, str]:
    """How many ranks there are to be, and on what.

    Raises:
        ValueError: this machine has not so many devices.
    """
    import torch

    from ditmesh.job.devices import FEW_RANKS, RANKS_PER_CORE

    if World.read(os.environ).launched:
        raise ValueError("selftest starts its ranks by itself, and this is one that torchrun started; run it alone.")
    gpus = torch.cuda.device_count()
    if gpus and asked and asked > gpus:
        raise ValueError(
            f"--nproc {asked}: {gpus} GPUs can be seen, and each rank needs its own; leave --nproc out, or set "
            f"CUDA_VISIBLE_DEVICES= to try {asked} ranks on the CPU."
        )
    most = max(FEW_RANKS, RANKS_PER_CORE * cores())
    if not gpus and asked and asked > most:
        raise ValueError(f"--nproc {asked}: the {cores()} CPU cores of this machine bear {most} ranks; ask for fewer.")
    return asked or gpus or 2, "cuda" if gpus else "cpu"


def _opened(report: Path) -> TextIO:
    try:
        return report.open("w", encoding="utf-8")
    except OSError as error:
        raise ValueError(f"--report {report}: {error.strerror}; name a file that can be written.") from error
