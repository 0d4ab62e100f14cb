"""The launcher, with real processes: one readable error, honest exit codes, and nobody left behind."""

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import ditmesh
from ditmesh.runtime import launch

pytestmark = pytest.mark.slow

RANKS = 2
START = "import sys; from ditmesh.runtime.launch import launch; sys.exit(launch(sys.argv[1], sys.argv[2:], {nproc}))"
VICTIM = """
import os
import sys
import time
from pathlib import Path

rank, folder, what = int(os.environ["RANK"]), Path(sys.argv[1]), sys.argv[2]
if what == "barrier":
    import torch.distributed as dist
    dist.init_process_group("gloo")
(folder / f"{rank}.pid").write_text(str(os.getpid()))
if rank == 1 and what == "raise":
    raise RuntimeError("the cause")
if rank == 1 and what == "exit":
    sys.exit(3)
if what == "say":
    # At once: lines of two ranks may not mix.
    sys.stdout.write(f"rank {rank} with {os.environ['OMP_NUM_THREADS']} threads\\n")
elif rank == 0 and what == "barrier":
    dist.barrier()  # waits in C++, where no Python signal handler runs
else:
    time.sleep(120)
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start a launcher of two victims; what is left of it is killed at the end."""
    (tmp_path / "victim.py").write_text(VICTIM)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(ditmesh.__file__).parents[1]), str(tmp_path)]))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    started = []

    def begin(what: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-P", "-c", START.format(nproc=RANKS), "victim", str(tmp_path), what]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def wait_for_ranks(folder: Path) -> list[int]:
    files = [folder / f"{rank}.pid" for rank in range(RANKS)]
    return wait_until(lambda: [int(file.read_text()) for file in files if file.exists() and file.read_text()], RANKS)


def wait_until(found: Any, count: int) -> Any:
    deadline = time.monotonic() + 60
    while len(found()) != count:
        assert time.monotonic() < deadline, f"{found()} after a minute, where {count} were expected"
        time.sleep(0.05)
    return found()


def alive(pids: list[int]) -> list[int]:
    """Those that still run; a zombie, which only waits for its parent to look, does not."""
    states = {pid: Path(f"/proc/{pid}/stat") for pid in pids}
    return [pid for pid, stat in states.items() if stat.exists() and stat.read_text().rsplit(")")[-1].split()[0] != "Z"]


def test_ranks_share_the_cores_and_end_in_silence(start):
    process = start("say")
    out, err = process.communicate()
    threads = max(1, launch.cores() // RANKS)
    assert sorted(out.splitlines()) == [f"rank {rank} with {threads} threads" for rank in range(RANKS)]
    assert (process.returncode, err) == (0, "")


def test_an_error_is_shown_once_with_a_short_traceback(start):
    process = start("raise")
    _, err = process.communicate()
    first, *frames = err.splitlines()
    assert first == "rank 1 failed: RuntimeError: the cause"
    assert [line.split(",")[0].rsplit(os.sep)[-1] for line in frames] == [
        'victim.py"',
        '    raise RuntimeError("the cause")',
    ]
    assert process.returncode == 1


def test_a_rank_that_ends_with_a_code_has_said_what_it_had_to_say(start):
    process = start("exit")
    _, err = process.communicate()
    assert (process.returncode, err) == (3, "")


def test_a_killed_rank_ends_the_job(start, tmp_path):
    process = start("barrier")
    pids = wait_for_ranks(tmp_path)
    os.kill(pids[1], signal.SIGKILL)
    began = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 15
    assert err.splitlines() == [
        "rank 1 was ended by SIGKILL (the system does this when memory runs out); the other ranks were stopped"
    ]
    assert process.returncode == 128 + signal.SIGKILL
    assert alive(pids) == []


def test_a_rank_that_was_asked_to_end_is_the_cause(start, tmp_path):
    process = start("sleep")
    pids = wait_for_ranks(tmp_path)
    os.kill(pids[1], signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert err.splitlines() == ["rank 1 was ended by SIGTERM; the other ranks were stopped"]
    assert process.returncode == 128 + signal.SIGTERM


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="only Linux lists the sockets that listen")
def test_ranks_listen_on_the_loopback_alone_and_run_nothing_of_the_current_folder(start, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "random.py").write_text("raise RuntimeError('not the one of the standard library')")
    monkeypatch.chdir(tmp_path / "here")
    process = start("barrier")
    pids = [process.pid, *wait_for_ranks(tmp_path)]
    assert {address for pid in pids for address in listening(pid)} == {"127.0.0.1"}
    process.terminate()
    process.communicate(timeout=60)


def listening(pid: int) -> set[str]:
    """The addresses on which a process listens; one of IPv6 as it stands in the table."""
    links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
    rows = [row.split() for table in ("tcp", "tcp6") for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    heard = [row[1].split(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in links]
    return {socket.inet_ntoa(bytes.fromhex(one)[::-1]) if len(one) == 8 else one for one in heard}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_every_rank(start, tmp_path, number):
    process = start("barrier")
    pids = wait_for_ranks(tmp_path)
    process.send_signal(number)
    process.send_signal(number)  # impatience must not leave anyone behind
    _, err = process.communicate(timeout=60)
    assert err.splitlines() == [f"stopped by {number.name}, and all {RANKS} ranks with it"]
    assert process.returncode == 128 + number
    wait_until(lambda: alive(pids), 0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tie a process to its parent")
def test_nobody_outlives_a_killed_launcher(start, tmp_path):
    process = start("sleep")
    pids = wait_for_ranks(tmp_path)
    process.kill()
    process.wait()
    wait_until(lambda: alive(pids), 0)


@dataclass
class Failed:
    """A rank's end, as torch.distributed.run tells of it."""

    exitcode: int
    error_file_data: dict[str, Any] = field(default_factory=dict)
    pid: int = 1


@pytest.mark.parametrize(
    ("failures", "first"),
    [
        ({0: Failed(1, {"time_ns": 20}), 1: Failed(1, {"time_ns": 10})}, 1),
        ({0: Failed(-signal.SIGTERM), 1: Failed(1, {"time_ns": 10})}, 1),
        ({0: Failed(1, {"time_ns": 10}), 1: Failed(-signal.SIGKILL)}, 1),
        ({0: Failed(-signal.SIGABRT), 1: Failed(1, {"time_ns": 10})}, 1),
        ({0: Failed(-signal.SIGTERM), 1: Failed(4)}, 1),
        ({0: Failed(-signal.SIGTERM), 1: Failed(-signal.SIGTERM)}, 0),
        ({0: Failed(-signal.SIGTERM), 1: Failed(-signal.SIGTERM, pid=7)}, 1),
        ({0: Failed(1, {"time_ns": 10}), 1: Failed(-signal.SIGTERM, pid=7)}, 1),
        ({0: Failed(1, {"time_ns": 10}), 1: Failed(-signal.SIGABRT, pid=7)}, 0),
        ({0: Failed(1, {"time_ns": 10}, pid=7), 1: Failed(-signal.SIGKILL)}, 0),
    ],
    ids=[
        "earlier",
        "told to stop",
        "killed",
        "lost its peer",
        "silent",
        "all alike",
        "asked",
        "heard",
        "aborted",
        "stopped",
    ],
)
def test_the_first_failure_is_the_cause(failures, first):
    assert launch.end_of(failures, first=7).words.startswith(f"rank {first} ")


def test_an_end_without_words_is_told_by_its_code():
    end = launch.end_of({0: Failed(-signal.SIGTERM), 1: Failed(4)})
    assert (end.code, end.words) == (4, "rank 1 ended with exit code 4; the other ranks were stopped")


def test_what_a_user_caused_is_told_in_one_line():
    with pytest.raises(ValueError, match="tp_size") as refused:
        ditmesh.ParallelismConfig(tp_size="2")
    assert launch.describe(refused.value) == "tp_size must be an int, not '2' of type str; write tp_size=2."


def test_what_a_user_did_not_cause_comes_with_its_place():
    with pytest.raises(ValueError, match="invalid literal") as failed:
        int("two")
    assert launch.describe(failed.value).splitlines()[0].startswith("ValueError: invalid literal")
    assert "test_launch.py" in launch.describe(failed.value)
