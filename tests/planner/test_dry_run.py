"""Dry runs in processes of their own, and what is kept of them."""

from pathlib import Path

import pytest
import torch.distributed as dist

from ditmesh import ParallelismConfig
from ditmesh.planner.dry_run import dry_run, dry_runs, ranks_that_differ
from ditmesh.planner.rehearsal import rehearse
from tests.planner.jobs import job


def test_what_is_found_is_kept_and_a_broken_cache_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    one = job("flux", "tp2", tmp_path)
    first, second = dry_runs([(one, 0), (one, 1)])
    assert first == rehearse(one, 0)
    assert not dist.is_initialized()
    files = sorted((tmp_path / "cache").rglob("*.json"))
    assert len(files) == 2
    with monkeypatch.context() as patch:
        patch.setattr("sys.executable", "nobody")  # nothing is found out anew
        assert dry_runs([(one, 0), (one, 1)]) == [first, second]
    for file in files:
        file.write_text("{")
    monkeypatch.setenv("XDG_CACHE_HOME", str(files[0]))
    assert dry_run(one, 1) == second


def test_ranks_that_differ_are_the_first_of_each_stage() -> None:
    assert ranks_that_differ(ParallelismConfig.parse("ulysses4.tp2")) == [0]
    assert ranks_that_differ(ParallelismConfig.parse("cfg2.pp2.tp2")) == [0, 2]
