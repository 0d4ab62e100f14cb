"""The `ditmesh` command: a thin skin, one file per verb."""

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType


def main(arguments: Sequence[str] | None = None) -> None:
    """The command `ditmesh`; exits the process."""
    if arguments is None:
        _stop_quietly()
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else torch too tells of each rank that waits in vain
    import typer

    from ditmesh.cli.app import app

    arguments = sys.argv[1:] if arguments is None else arguments
    # A click command, not Typer's call, which takes sys.excepthook away from the ranks.
    # What follows the verb goes along for the ranks that it may start.
    typer.main.get_command(app).main(args=list(arguments), prog_name="ditmesh", obj=tuple(arguments[1:]))


def _stop_quietly() -> None:
    """Let an interrupt end this process without the traceback of whatever it is importing or computing."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a rank that ditmesh started has its own way
        # A rank of torchrun may wait in C++ for the others, where no Python handler runs.
        signal.signal(signal.SIGINT, signal.SIG_DFL if "RANK" in os.environ else _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    os.write(sys.stderr.fileno(), b"stopped by SIGINT\n")
    os._exit(128 + number)


def main_generate() -> None:
    """`python -m ditmesh.generate [generate] EXAMPLE ...`, which is `ditmesh generate EXAMPLE ...`."""
    _stop_quietly()
    arguments = sys.argv[1:]
    main(["generate", *(arguments[1:] if arguments[:1] == ["generate"] else arguments)])
