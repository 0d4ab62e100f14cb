"""`ditmesh selftest`: which cases it has, and that a wrong layout and a silent rank are named."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ditmesh import ParallelismConfig
from ditmesh.cli.selftest.cases import DEMO, PIPELINES, Case, cases, layouts
from ditmesh.cli.selftest.gangs import Outcome, _whereabouts
from ditmesh.cli.selftest.report import Report
from ditmesh.config import AXES

ROOT = Path(__file__).parents[2]
RIGHT, WRONG = {"error": 1e-7, "bound": 1e-5, "seconds": 0.1}, {"error": 0.5, "bound": 1e-5, "seconds": 0.1}


def test_every_layout_of_the_ranks_is_there() -> None:
    assert layouts(2) == ["tp2", "ulysses2", "ring2", "pp2", "cfg2", "dp2"]
    assert layouts(3) == ["tp3", "ulysses3", "ring3", "pp3", "dp3"]
    assert "cfg2.ring2.tp2" in layouts(8)
    assert {ParallelismConfig.parse(layout).world_size for layout in layouts(8)} == {8}


@pytest.mark.parametrize("ranks", [2, 6, 8])
def test_every_axis_is_seen_on_every_family_and_every_hybrid_on_one(ranks: int) -> None:
    found = cases(ranks, "cuda")
    assert len(set(found)) == len(found)
    whole = [axis for axis, row in AXES.items() if row.most is None or row.most >= ranks]
    assert {(case.pipeline, case.layout) for case in found} >= {(x, f"{a}{ranks}") for x in PIPELINES for a in whole}
    assert {case.layout for case in found} >= set(layouts(ranks))
    assert any(case.pipeline == DEMO and case.layout == f"ulysses{ranks}" for case in found)
    assert {case.layout for case in found if case.cached} > {"single"}
    assert any(case.shared for case in found)
    assert any(case.shard_weights for case in found)


def test_one_rank_has_its_kernels_and_the_cache() -> None:
    assert {case.layout for case in cases(1, "cpu")} == {"single"}
    assert {case.kernel for case in cases(1, "cpu")} > {"native"}


def report(outcome: Outcome) -> Report:
    told = Report(2, "cpu", {})
    tasks = [{"task": "messages"}, *({"case": vars(Case("wan", layout))} for layout in ("tp2", "ring2"))]
    told.add(tasks, outcome)
    return told


@pytest.mark.parametrize(("outcome", "code", "verdict"), [
    (Outcome({0: {"found": []}, 1: RIGHT, 2: RIGHT}), 0, "2 cases on 2 CPU ranks: 2 exact"),
    (Outcome({0: {"found": []}, 1: RIGHT, 2: {"absent": "it"}}), 0, "1 exact, 1 no such kernel here"),
    (Outcome({0: {"found": []}, 1: RIGHT, 2: WRONG}), 1, "1 exact, 1 WRONG"),
    (Outcome({0: {"found": []}, 1: RIGHT, 2: {**RIGHT, "error": float("inf")}}), 1, "1 exact, 1 WRONG"),
    (Outcome({0: {"found": []}, 1: RIGHT}, {2: "it hung"}), 1, "1 exact, 1 FAILED"),
    (Outcome({0: {"found": []}, 1: RIGHT}, stopped="the time was over"), 1, "1 exact, 1 not run"),
    (Outcome({0: {"found": ["ring: rank 1"]}, 1: RIGHT, 2: RIGHT}), 1, "messages between ranks are garbled"),
    (Outcome({1: RIGHT, 2: RIGHT}, {0: "it hung"}), 1, "no answer to: messages"),
    (Outcome({}, stopped="stopped by SIGINT", code=130), 130, "2 not run"),
])  # fmt: skip
def test_what_is_not_exact_or_was_not_shown_is_no_success(outcome: Outcome, code: int, verdict: str) -> None:
    assert report(outcome).code == code
    assert verdict in report(outcome).verdict


def test_wrong_usage_is_refused_at_once(refused, launched, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "bear" in refused("--nproc", "1000", verb="selftest")[0]
    assert "name a file that can be written" in refused("--report", "no/such/folder/x.txt", verb="selftest")[0]
    launched(0, 2)
    assert "torchrun started; run it alone" in refused(verb="selftest")[0]


NOTE = """Timeout (0:00:15)!
Thread 0x00007f24020fb6c0 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 982 in run

Thread 0x00007f2403445b80 (most recent call first):
  File "/a b/site-packages/torch/distributed/distributed_c10d.py", line 3 in all_reduce
  File "/a b/src/ditmesh/runtime/collectives.py", line 5 in all_reduce
  File "/a b/src/ditmesh/cli/selftest/tasks.py", line 7 in do
  ...
"""


def test_where_a_rank_was_is_that_of_the_thread_that_works() -> None:
    assert _whereabouts(NOTE).startswith(
        "waited for others in torch/distributed/distributed_c10d.py:3 all_reduce < ditmesh/runtime/collectives.py:5"
    )
    asleep = NOTE.replace("torch/distributed/distributed_c10d.py", "driver.py").replace(
        "runtime/collectives", "cache/a"
    )
    assert _whereabouts(asleep).startswith("was silent in driver.py:3 all_reduce < ditmesh/cache/a.py:5 all_reduce")


@pytest.mark.slow
def test_a_wrong_layout_and_a_silent_rank_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}", "XDG_CONFIG_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "tests.cli.broken_selftest", "--seconds", "240", "--report", "told.txt"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    told = (tmp_path / "told.txt").read_text()
    assert "3 cases on 2 CPU ranks: 1 exact, 1 WRONG, 1 FAILED" in done.stdout.splitlines()
    lines = {
        line.split()[0]: line.rstrip() for line in told.splitlines() if line.startswith(("ring2", "tp2", "ulysses2"))
    }
    assert lines["ring2"].endswith("WRONG")
    assert lines["tp2"].endswith("FAILED")
    assert lines["ulysses2"].endswith("exact")
    assert re.search(r"rank 1 was silent in \S*tests/cli/broken_selftest.py:\d+ fall_silent", told)
    assert "rank 1 did not come within" in told or "rank 0 waited for others in" in told
    assert "torch: 2." in told
