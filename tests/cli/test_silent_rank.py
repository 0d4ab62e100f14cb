"""A rank that falls silent, as with a driver that is stuck: the others wait as long as they were told, and name it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]

DEMO = ["demo", "--steps", "5000", "--save-path", "demo.png"]
WAYS = {
    "generate": ["ditmesh", "generate", *DEMO, "--parallel", "ulysses2"],
    "torchrun": [
        *("torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "ditmesh.generate"),
        *(*DEMO, "--parallel", "ulysses"),
    ],
}


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("way", WAYS)
def test_a_rank_that_is_stopped_is_named_and_the_job_ends(tmp_path: Path, way: str) -> None:
    environment = os.environ | {"DITMESH_TIMEOUT": "4", "PYTHONPATH": os.pathsep.join(sys.path)}
    said = tmp_path / "said"
    with said.open("w") as out:
        command = [sys.executable, "-m", *WAYS[way]]
        job = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT, cwd=tmp_path)
    deadline = time.monotonic() + 90
    while "/5000 " not in said.read_text().replace(" 0/5000 ", ""):  # drawing
        assert job.poll() is None, said.read_text()
        assert time.monotonic() < deadline, said.read_text()
        time.sleep(0.1)
    ranks = children(job.pid)[-2:]
    os.kill(ranks[1], signal.SIGSTOP)
    code = job.wait(timeout=90)
    words = said.read_text()
    assert code != 0
    assert "rank 1 did not come within DITMESH_TIMEOUT=4 seconds" in words
    assert "waitForInput" not in words
    assert not [rank for rank in ranks if Path(f"/proc/{rank}").exists()]
