"""Run a command again on many ranks of this machine, and tell of the first failure, once.

`launch` is the parent: torch.distributed.run as it is, less its log. `main` is a rank, `python -m
ditmesh.runtime.launch MODULE ARGUMENTS`: the module as it is, but it dies with its parent and leaves its last words in
the file that torch.distributed.run names, instead of N tracebacks on the terminal.
"""

import ctypes
import json
import logging
import os
import runpy
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from ditmesh.runtime.machines import BY_ITSELF, FROM_OUTSIDE, UNTOLD, WELL, WITH_OTHERS, End, Machines, Nodes
from ditmesh.runtime.terminal import shown

NOTHING: Mapping[str, str] = {}
PACKAGE = str(Path(__file__).parents[1])
SECONDS_TO_CLOSE = 5  # between asking the ranks to end and killing them
FRAMES_SHOWN = 6
WAY_IN = (__file__, "<frozen runpy>", f"{os.sep}click{os.sep}", f"{os.sep}typer{os.sep}")  # frames that tell nothing
REFUSED, FAILED = 2, 1  # exit codes: of what a user can cause, as of the command line parser itself, and of all else
PR_SET_PDEATHSIG = 1  # linux/prctl.h
LOOPBACK, LOOPBACK_DEVICE = "127.0.0.1", "lo"  # the device as Linux names it
SECONDS_BETWEEN_LOOKS = 0.01
# These come from outside or from a crash. Not SIGTERM, which the parent sends to the ranks that are left, nor SIGABRT,
# with which communicators end a rank that has lost a peer.
CAUSES = {-number for number in (signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)}


class Failure(Protocol):
    """What `launch` reads of torch.distributed.elastic's ProcessFailure."""

    pid: int
    exitcode: int
    error_file_data: dict[str, Any]


def launch(
    module: str, arguments: Sequence[str], nproc: int, nodes: Nodes | None = None, job: Mapping[str, str] = NOTHING
) -> int:
    """Run `python -m module *arguments` on `nproc` ranks of this machine, which is one of several if `nodes` says so.

    Args:
        job: what has to be the same on every machine, by names for a reader.

    Returns:
        0 when every rank ended well, else the exit code of the first failure (128 + n for signal n), after that
        failure was printed to stderr. An interrupt ends every rank and counts as a failure.

    Raises:
        ValueError: the machines did not meet, or differ in their `job`.
    """
    end = launch_silently(module, arguments, nproc, nodes, job)
    if end.words:
        print(shown(end.words, lines=True), file=sys.stderr)
    return end.code


def launch_silently(
    module: str, arguments: Sequence[str], nproc: int, nodes: Nodes | None = None, job: Mapping[str, str] = NOTHING
) -> End:
    """As ``launch``, but the first failure is returned and nothing is said of it."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // nproc)))
    if Path(PACKAGE).parent != Path.cwd():
        os.environ["PYTHONSAFEPATH"] = "1"  # a random.py in the current folder is not the ranks'
    with ExitStack() as closing:
        logging.disable(logging.CRITICAL)  # its log repeats what we say, at length
        closing.callback(logging.disable, logging.NOTSET)
        folder = closing.enter_context(tempfile.TemporaryDirectory(prefix="ditmesh-"))  # for the ranks' last words
        machines = None if nodes is None else closing.enter_context(Machines(nodes, job))
        alone = hold_store() if nodes is None else None
        options = agent_arguments(nproc, folder, nodes or Nodes(1, 0, LOOPBACK, alone.port if alone else 0))
        end = run_ranks([*options, "ditmesh.runtime.launch", module, *arguments], nproc, nodes)
        return end if machines is None else machines.agree(end)


def run_ranks(arguments: Sequence[str], nproc: int, nodes: Nodes | None) -> End:
    """Run torch.distributed.run, and learn how it ended."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    failed: Sequence[int] = ()
    try:
        with first_death() as failed:
            run.main(list(arguments))  # pyright: ignore[reportUnknownMemberType]
    except ChildFailedError as error:
        return end_of(error.failures, next(iter(failed), None))
    except SignalException as stopped:
        words = f"stopped by {stopped.sigval.name}, and all {nproc} ranks with it"
        if nodes is not None:
            words = f"machine {nodes.node} was stopped by {stopped.sigval.name}, and all ranks with it"
        return End(FROM_OUTSIDE, time.time_ns(), 128 + stopped.sigval, words)
    return End(WELL, time.time_ns(), 0)


def hold_store() -> Any:
    """The store of a job on one machine, on a free port of its loopback: no other machine can read or write there.

    torch.distributed.run shares it, as one process has one store for a port; alone it would listen everywhere.
    """
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK_DEVICE)
    listener = socket.create_server((LOOPBACK, 0))
    port = listener.getsockname()[1]
    shares: dict[str, Any] = {"wait_for_workers": False, "multi_tenant": True}
    return TCPStore(LOOPBACK, port, None, True, master_listen_fd=listener.detach(), **shares)


def agent_arguments(nproc: int, folder: str, nodes: Nodes) -> list[str]:
    """The options of torch.distributed.run."""
    return [
        f"--nnodes={nodes.count}",
        f"--node-rank={nodes.node}",
        f"--master-addr={nodes.host}",
        f"--master-port={nodes.port}",
        f"--nproc-per-node={nproc}",
        f"--log-dir={folder}",
        f"--shutdown-timeout={SECONDS_TO_CLOSE}",
        "--module",
    ]


def cores() -> int:
    """The number of CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


@contextmanager
def first_death() -> Generator[list[int]]:
    """See which child of this process is the first to fail, before torch.distributed.run ends the others; on Linux."""
    failed, over = list[int](), threading.Event()

    def watch() -> None:
        while not failed and not over.wait(SECONDS_BETWEEN_LOOKS):
            with suppress(ChildProcessError):  # none was started yet
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)  # and leave it for whoever started it
                if ended is not None and ended.si_status:
                    failed.append(ended.si_pid)

    if sys.platform == "linux":
        threading.Thread(target=watch, daemon=True).start()
    try:
        yield failed
    finally:
        over.set()


def end_of(failures: Mapping[int, Failure], first: int | None = None) -> End:
    """The end by the rank whose failure came first: the others mostly lost their connection to it.

    A rank killed from outside wrote nothing down, so it goes before every exception; those have their times.

    Args:
        failures: of each rank that failed.
        first: the process that died first, if that is known. The parent had no reason yet to send it a signal.
    """
    known = first if first in [failure.pid for failure in failures.values()] else None
    return min(_end_of(rank, failure, known) for rank, failure in sorted(failures.items()))


def _end_of(rank: int, failure: Failure, first: int | None) -> End:
    told = failure.error_file_data
    when = told.get("time_ns", 0)
    if failure.exitcode < 0:
        name = signal.Signals(-failure.exitcode).name
        hint = " (the system does this when memory runs out)" if name == "SIGKILL" else ""
        # Once a rank has died, the parent kills what does not end by itself, as a rank that is stopped.
        is_cause = failure.exitcode in CAUSES if first is None else failure.pid == first and name != "SIGABRT"
        origin = FROM_OUTSIDE if is_cause else BY_ITSELF if when else WITH_OTHERS
        words = f"rank {rank} was ended by {name}{hint}; the other ranks were stopped"
        return End(origin, when, 128 - failure.exitcode, words)
    words = told.get("last_words")
    if words is None:
        words = f"rank {rank} ended with exit code {failure.exitcode}; the other ranks were stopped"
        return End(BY_ITSELF if when else UNTOLD, when, failure.exitcode, words)
    return End(BY_ITSELF, when, failure.exitcode, f"rank {rank} failed: {words}" if words else "")


def is_refusal(error: BaseException) -> bool:
    """Whether an error is what a user can cause: a file that is damaged, an argument that a pipeline does not take."""
    stack = traceback.extract_tb(error.__traceback__)
    return (
        isinstance(error, ValueError)
        and bool(stack)
        and (PACKAGE in stack[-1].filename or stack[-1].name == "check_inputs")
    )


def describe(error: BaseException) -> str:
    """The error for a reader: what a user can cause in one line, anything else with a short traceback."""
    if is_refusal(error):
        return " ".join(str(error).split())
    told = traceback.TracebackException.from_exception(error)
    frames = [frame for frame in told.stack if not any(way in frame.filename for way in WAY_IN)]
    trace = "".join(traceback.StackSummary.from_list(frames[-FRAMES_SHOWN:]).format())
    return f"{''.join(told.format_exception_only()).strip()}\n{trace}".rstrip()


def leave_last_words(words: str) -> None:
    """Write the words, and when they were said, to the file that torch.distributed.run gave this rank."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        # "message" is what torch.distributed.run wants to find; the rest is ours.
        record = {"message": words, "timestamp": int(time.time()), "time_ns": time.time_ns(), "last_words": words}
        Path(path).write_text(json.dumps(record))


def die_with_parent() -> None:
    """Have the system kill this process when its parent ends, however it ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def fail(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    leave_last_words(describe(error))
    # Not through the interpreter's shutdown: a communicator whose peers still wait can hang there.
    os._exit(REFUSED if is_refusal(error) else FAILED)


def speak_once() -> None:
    """Under a torchrun that ditmesh did not start, have one rank of a machine tell of a failure, not each of them."""
    if sys.excepthook is sys.__excepthook__ and "TORCHELASTIC_ERROR_FILE" in os.environ:
        sys.excepthook = fail_aloud


def fail_aloud(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    of_this_machine = Path(os.environ["TORCHELASTIC_ERROR_FILE"]).parents[1]
    try:
        (of_this_machine / "told").touch(exist_ok=False)
    except FileExistsError:
        pass  # another rank failed first, and this one mostly lost its connection to it
    else:
        # Not sys.stderr, in whose place torch.distributed has a buffer while this runs.
        words = f"rank {os.environ['RANK']} failed: {describe(error)}"
        print(shown(words, lines=True), file=sys.__stderr__, flush=True)
    fail(kind, error, trace)


def main() -> None:
    """Be one rank: run the module named first on the command line, with the arguments after it."""
    die_with_parent()
    # The parent passes interrupts on; the default action needs no Python, which a collective may be holding up.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.excepthook = fail
    sys.argv = sys.argv[1:]
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code:
            leave_last_words("")  # it has said what it had to say
        raise


if __name__ == "__main__":
    main()
