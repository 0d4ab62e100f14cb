"""One rank of a self-test: `python -m ditmesh.cli.selftest.rank FOLDER` does one task after the other.

A rank cannot be trusted to end: it may wait for what never comes, in Python or in a driver. So before each task it
winds up the interpreter's own clock (``faulthandler``), which needs no lock: when that runs down it writes down where
every thread is, and ends the process.
"""

import faulthandler
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from ditmesh.runtime.world import World


class Notes:
    """What a rank leaves in the folder of its gang: what it says, where it was, and the results, if it is the first."""

    def __init__(self, folder: Path, world: World):
        self.told = (folder / "results").open("a") if world.rank == 0 else None
        self.where = (folder / f"where{world.rank}").open("w")
        self.terminal = os.fdopen(os.dup(2), "w")
        said = (folder / f"said{world.rank}").open("w")
        os.dup2(said.fileno(), 1)  # libraries speak there, NCCL above all
        os.dup2(said.fileno(), 2)
        faulthandler.enable(self.where)
        faulthandler.register(signal.SIGTERM, self.where, chain=True)  # another rank ended before this one

    def tell(self, **fact: Any) -> None:
        if self.told is not None:
            print(json.dumps(fact), file=self.told, flush=True)

    def show(self, line: str) -> None:
        if self.told is not None and self.terminal.isatty():
            print(f"\r\x1b[K{line}", end="", file=self.terminal, flush=True)

    def wind(self, seconds: float) -> None:
        """End this process if it does not call this again within so many seconds."""
        faulthandler.dump_traceback_later(max(seconds, 1), exit=True, file=self.where)


def main() -> None:
    world, folder = World.read(os.environ), Path(sys.argv[1])
    plan: dict[str, Any] = json.loads((folder / "plan").read_text())
    notes = Notes(folder, world)
    notes.wind(plan["start"])
    notes.show(f"starting {world.size} ranks ...")
    os.environ["DITMESH_TIMEOUT"] = str(plan["patience"])
    os.environ.setdefault("NCCL_DEBUG", "WARN")

    from ditmesh.cli.quiet import keep_quiet, quiet_imports

    quiet_imports()
    from ditmesh.cli.selftest.tasks import Rank

    keep_quiet(False)
    rank = Rank(world)
    for number, task in plan["tasks"]:
        # The clock of the task before still runs: no rank's time begins while another is not done.
        left = rank.agree_on(plan["until"] - time.time())
        if left <= 0:
            break
        notes.wind(min(plan["limit"], left + plan["grace"]))
        notes.tell(begun=number)
        notes.show(f"{number + 1} of {plan['count']}: {rank.title(task)}")
        notes.tell(number=number, **rank.do(task))
    notes.show("")
    rank.leave()
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main()
