"""Dry runs in processes of their own: what is found is remembered, and what fails or takes long ends nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest

from ditmesh.planner import dry_run, workers
from ditmesh.planner.dry_run import as_found, dry_runs
from ditmesh.planner.workload import Workload
from tests.planner.jobs import job

pytestmark = pytest.mark.slow


def test_what_was_found_once_is_known_and_refusals_and_failures_leave_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(workers, "cores", lambda: 1)  # one process does all of it, but for one that it dies of
    fine = job("flux", "tp2", tmp_path)
    refused = replace(fine, layout=replace(fine.layout, tp_size=1, pp_size=64))
    dies = replace(fine, call={"prompt": "a", "no_such_argument": 1})
    asked = [(fine, 0), (refused, 0), (dies, 0), (fine, 1)]
    found = dict(as_found(asked))
    assert isinstance(found[0], Workload)
    assert isinstance(found[3], Workload)
    assert found[3].rank == 1
    assert isinstance(found[1], ValueError)
    assert "pp_size=64" in str(found[1])
    assert isinstance(found[2], RuntimeError)
    assert "please report it" in str(found[2])
    assert "no_such_argument" in str(found[2])
    monkeypatch.setattr(dry_run, "answers", lambda asked, seconds: iter(()))  # nobody may be asked any more
    again = dry_runs([asked[0], asked[1], asked[3]])
    assert again[0] == found[0]
    assert str(again[1]) == str(found[1])


def test_what_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert list(as_found([(job("flux", "tp2", tmp_path), 0)], seconds=0.01)) == []
