"""Ranks as processes of this machine: how their end is told, and that none is left, whatever ends first."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from ditmesh.replicas import local
from ditmesh.replicas.engine import NoRoom, RankDied
from ditmesh.replicas.local import LocalEngine
from tests.replicas.watching import PATIENCE, demo

STARTS = """
import sys, time
from ditmesh.replicas.local import LocalEngine
from tests.replicas.watching import demo

ranks = LocalEngine().start(0, demo("ulysses2"), lambda rank, message: None)
print(*[process.pid for process in ranks._processes], flush=True)
time.sleep(1000)
"""


def end_of(program: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is told of a rank that runs another program."""
    heard: SimpleQueue[Any] = SimpleQueue()
    monkeypatch.setattr(local, "PROGRAM", program)
    ranks = LocalEngine().start(0, demo(), lambda rank, message: heard.put((rank, message)))
    try:
        rank, died = heard.get(timeout=PATIENCE)
    finally:
        ranks.end()
    assert isinstance(died, RankDied)
    assert rank == died.rank == 0
    return died.why


def test_the_end_of_a_rank_is_told_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    zen = "Namespaces are one honking great idea -- let's do more of those!"
    assert end_of("this", monkeypatch) == f"rank 0 ended with exit code 0; its last words: {zen}"
    assert "exit code 1; its last words:" in end_of("ditmesh.nothing", monkeypatch)


def is_there(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def has_begun(pid: int) -> bool:
    """Whether a rank's own program runs, which first of all asks to die with its parent, and then ignores SIGINT."""
    status = Path(f"/proc/{pid}/status").read_text()
    ignored = next(line for line in status.splitlines() if line.startswith("SigIgn:")).split()[1]
    return bool(int(ignored, 16) & 1 << signal.SIGINT - 1)


@pytest.mark.slow
def test_no_rank_outlives_a_supervisor_that_is_killed() -> None:
    starter = subprocess.Popen([sys.executable, "-c", STARTS], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    pids = [int(pid) for pid in starter.stdout.readline().split()]
    while not all(map(has_begun, pids)):
        time.sleep(0.01)
    os.kill(pids[1], signal.SIGSTOP)
    starter.kill()
    deadline = time.monotonic() + 5
    while left := [pid for pid in pids if is_there(pid)]:
        if time.monotonic() > deadline:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            break
        time.sleep(0.02)
    starter.wait()
    starter.stdout.close()
    assert left == []


def test_gpus_are_dealt_out_and_too_few_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,7")
    engine = LocalEngine(replicas=2)
    started = list[Any]()
    monkeypatch.setattr(local, "LocalRanks", lambda size, job, environment, *_: started.append(environment))
    engine.start(0, demo("ulysses2"), lambda rank, message: None)
    assert started[0]["CUDA_VISIBLE_DEVICES"] == "4,5"
    with pytest.raises(NoRoom, match="2 replicas of ulysses2 need 4 GPUs, and there are 3; ask for 1 rep"):
        engine.start(1, demo("ulysses2"), lambda rank, message: None)
