"""Several machines, here two launchers on one: they meet or say why not, draw one job, and end together."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ditmesh
from tests.batch.factory import SMALL, draw, manifest, pictures
from tests.tiny import tiny_path

pytestmark = pytest.mark.slow

START = """
import sys
from ditmesh.runtime.launch import launch
from ditmesh.runtime.machines import Nodes
sys.exit(launch("victim", sys.argv[3:], 1, Nodes(2, int(sys.argv[1]), "localhost", int(sys.argv[2]))))
"""
VICTIM = """
import os, sys, time
from pathlib import Path
Path(sys.argv[1], os.environ["RANK"] + ".pid").write_text(str(os.getpid()))
time.sleep(100)
"""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def meet(port, nodes, jobs, ends=None):
    """Be a machine, in place of its launcher: how the job ended, or why it did not begin."""
    import torch.distributed as dist

    from ditmesh.runtime import machines

    rank = dist.get_rank()
    machines.QUIET = 0
    try:
        with machines.Machines(machines.Nodes(*nodes[rank], "127.0.0.1", port), jobs[rank]) as here:
            return here.agree(machines.End(*ends[rank]))
    except ValueError as error:
        return str(error)


def test_machines_that_do_the_same_begin_and_end_with_the_first_failure(ranks):
    from ditmesh.runtime.machines import BY_ITSELF, FROM_OUTSIDE, WELL, End

    job, nodes = {"--seed": "3"}, [(2, 0), (2, 1)]
    well = (WELL, 0, 0, "")
    assert ranks.run(meet, 2, free_port(), nodes, [job, job], [well, well]) == [End(*well)] * 2
    lost = (BY_ITSELF, 20, 1, "rank 0 failed: connection closed by peer")
    for cause in ((BY_ITSELF, 10, 1, "rank 1 failed: the cause"), (FROM_OUTSIDE, 0, 137, "rank 1 was ended")):
        assert ranks.run(meet, 2, free_port(), nodes, [job, job], [lost, cause]) == [End(*cause)] * 2


@pytest.mark.parametrize(
    ("nodes", "jobs", "why"),
    [
        (
            [(2, 0), (2, 1)],
            [{"--seed": "3"}, {"--seed": "4"}],
            "machine 1 has another job than machine 0: --seed 4, not 3",
        ),
        ([(2, 0), (2, 1)], [{"a": "1", "b": "2"}, {"b": "2"}], "a is missing, not 1. Give every machine the same"),
        ([(2, 0), (3, 1)], [{}, {}], "machine 1 has another job than machine 0: --nnodes 3, not 2"),
    ],
)
def test_machines_with_unequal_commands_are_refused_alike(ranks, nodes, jobs, why):
    said = ranks.run(meet, 2, free_port(), nodes, jobs)
    assert said[0] == said[1]
    assert why in said[0]


def test_a_number_that_comes_twice_and_a_port_that_is_taken_are_refused(ranks):
    (said,) = ranks.run(come_twice, 1, free_port())
    assert "--node_rank 1: that machine has come already" in said
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        (said,) = ranks.run(meet, 1, taken.getsockname()[1], [(2, 0)], [{}])
    assert "machine 0 cannot hold 127.0.0.1:" in said
    assert "--node_rank 0 is for that machine alone" in said


def come_twice(port):
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", port, None, True, wait_for_workers=False)
    store.add("here/1", 1)
    return meet(port, [(2, 1)], [{}])


def test_who_waits_says_so_and_not_for_ever(ranks):
    for node, whom in ((0, "machine 1 at 127.0.0.1"), (1, "machine 0 at 127.0.0.1")):
        (said,) = ranks.run(wait_in_vain, 1, free_port(), node)
        assert f"waited 1 s for {whom}" in said


def wait_in_vain(port, node):
    from ditmesh.runtime import machines

    before, machines.PATIENCE = machines.PATIENCE, 1
    try:
        return meet(port, [(2, node)], [{}])
    finally:
        machines.PATIENCE = before


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start a launcher for each of two machines; what is left of them is killed at the end."""
    started = []
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(ditmesh.__file__).parents[1]), str(tmp_path)]))

    def begin(*commands: list[object]) -> list[subprocess.Popen[str]]:
        for command in commands:
            arguments = [sys.executable, *map(str, command)]
            pipe = subprocess.PIPE
            started.append(subprocess.Popen(arguments, stdout=pipe, stderr=pipe, text=True, start_new_session=True))
        return started

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def wait_until(found) -> None:
    deadline = time.monotonic() + 150
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("what", ["rank", "launcher", "interrupt"])
def test_what_ends_one_machine_ends_the_other_with_one_message(start, tmp_path, what):
    (tmp_path / "victim.py").write_text(VICTIM)
    port = free_port()
    first, second = start(*(["-c", START, node, port, tmp_path] for node in (0, 1)))
    wait_until(lambda: all((tmp_path / f"{rank}.pid").exists() for rank in (0, 1)))
    began = time.monotonic()
    if what == "rank":
        wait_until(lambda: (tmp_path / "1.pid").read_text())
        os.kill(int((tmp_path / "1.pid").read_text()), signal.SIGKILL)
    else:
        second.send_signal(signal.SIGKILL if what == "launcher" else signal.SIGINT)
    _, said = first.communicate(timeout=60)
    assert time.monotonic() - began < 15
    words, code = {
        "rank": (
            "rank 1 was ended by SIGKILL (the system does this when memory runs out); the other ranks were stopped",
            137,
        ),
        "launcher": ("machine 1 is gone, and all ranks were stopped", 1),
        "interrupt": ("machine 1 was stopped by SIGINT, and all ranks with it", 130),
    }[what]
    assert (said.splitlines(), first.returncode) == ([words], code)
    if what != "launcher":
        assert (second.communicate()[1].splitlines(), second.returncode) == ([words], code)


def test_two_machines_draw_what_one_process_draws(start, ranks, tmp_path, monkeypatch):
    flux = str(tiny_path("flux", tmp_path / "tiny"))
    (tmp_path / "rows.txt").write_text("a red dog\na cat\ntwo birds\n")
    asked = ["--model_name", flux, "--prompts_file", "rows.txt", *SMALL]
    spread = [*asked, "--ulysses_degree", "2", "--nnodes", "2", "--rdzv_endpoint", f"localhost:{free_port()}"]
    monkeypatch.chdir(tmp_path)
    processes = start(*(["-m", "ditmesh", "t2i", *spread, "--node_rank", node] for node in (0, 1)))
    said = [process.communicate(timeout=200) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert "3 pictures drawn" in said[0][0]
    assert said[1] == ("", "")
    assert ranks.run(draw, 1, [*asked, "--output_dir", "alone"], {}, flux, str(tmp_path)) == [0]
    ours, reference = pictures("output"), pictures("alone")
    assert list(ours) == list(reference) == [record["file"] for record in manifest("output")]
    assert all(abs(ours[name] - reference[name]).max() <= 1 for name in ours)
    assert not list((tmp_path / "output").glob(".*"))


def test_a_folder_that_is_not_shared_is_refused(ranks, tmp_path):
    (tmp_path / "0").mkdir()
    for folders in (["0", "0"], ["0", "1"]):
        said = ranks.run(look, 2, free_port(), str(tmp_path), folders)
        assert not list((tmp_path / "0").iterdir())
        assert said[0] == ""
        assert ("here is not the folder that rank 0 writes to" in said[1]) == (folders[1] == "1")


def look(port, root, folders):
    import torch.distributed as dist
    from torch.distributed import TCPStore

    from ditmesh.batch import folder
    from ditmesh.batch.work_list import Place, WorkList

    rank = dist.get_rank()
    store = TCPStore("127.0.0.1", port, 2, rank == 0, wait_for_workers=False)
    work = WorkList(store, Place(rank))
    folder.PATIENCE = 0.3
    try:
        with folder.shared_folder(Path(root) / folders[rank], work, rank, [1]):
            assert rank == 1 or list(Path(root, "0").iterdir())
    except ValueError as error:
        work.publish("seen1", b"")  # so that rank 0 of this test does not wait to be ended
        return str(error)
    finally:
        dist.barrier()
    return ""
