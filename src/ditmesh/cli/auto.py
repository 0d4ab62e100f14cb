"""`--parallel auto`: the layout that the planner chooses, and a warning before a run that cannot fit."""

import logging
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from ditmesh.runtime.terminal import shown

if TYPE_CHECKING:
    from ditmesh.config import ParallelismConfig
    from ditmesh.job.description import Job

AUTO = "auto"


def ranks_there_are(asked: int | None, flag: str) -> int:
    """How many ranks to choose a layout of: those asked for, else a rank for each GPU.

    Raises:
        ValueError: nobody asked, and there is no GPU.
    """
    if asked is not None:
        return asked
    import torch

    count = torch.accelerator.device_count()
    if count == 0:
        raise ValueError(f"--parallel auto: without an accelerator the number of ranks is open; add {flag} 2.")
    return count


def choose(
    job: "Job",
    ranks: int,
    exactly: bool,
    text: bool = False,
    vae: bool = False,
    shard: bool = False,
    throughput: bool = False,
    first: bool = True,
) -> "ParallelismConfig":
    """The layout, and on the first rank a line that says why.

    Raises:
        ValueError: this machine or the model is unknown, or no layout fits.
    """
    # Imported here: `--help` has no use for it, nor has who names a layout.
    from ditmesh.planner import auto
    from ditmesh.planner.search import Question

    job = replace(job, call={"prompt": "a picture", **{name: x for name, x in job.call.items() if x is not None}})
    ask = Question(auto.this_machine(), ranks, exactly, text, vae, shard, throughput)
    chosen = auto.choose(job, ask)
    if first:
        print(shown(f"auto: {chosen.reason}"), file=sys.stderr)
    assert chosen.best is not None
    return chosen.best.layout


def warn_if_too_large(job: "Job") -> None:
    """Say so before a run that cannot fit; of a device that is not known nothing is said, but in the log."""
    import torch

    if not torch.cuda.is_available() or job.tuning.offload is not None:
        return
    from ditmesh.planner import auto

    try:
        found = auto.too_large(job, auto.this_machine())
    except ValueError as error:
        logging.getLogger("ditmesh").info("not checked whether it fits: %s", error)
        return
    if found:
        print(shown(f"warning: {found}"), file=sys.stderr)
