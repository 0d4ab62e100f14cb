"""Weights that cannot be loaded, on the command line: one error that names the file, and nobody left behind."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from diffusers import FluxTransformer2DModel

from tests.cli.test_silent_rank import children
from tests.loading.faults import cut_off, missing_file, wrong_index

SMALL = ["--height", "16", "--width", "16", "--steps", "1"]


@pytest.fixture(scope="module")
def whole(flux: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A FLUX.1 whose transformer is in many files."""
    folder = tmp_path_factory.mktemp("whole") / "flux"
    shutil.copytree(flux, folder)
    model: Any = FluxTransformer2DModel.from_pretrained(folder / "transformer")
    for file in (folder / "transformer").glob("*.safetensors"):
        file.unlink()
    model.save_pretrained(folder / "transformer", max_shard_size="100KB")
    return folder


def damaged(whole: Path, folder: Path, damage: Callable[[Path], str]) -> tuple[Path, str]:
    shutil.copytree(whole, folder / "flux")
    return folder / "flux", damage(folder / "flux" / "transformer")


def said(err: str) -> list[str]:
    """The lines that are no progress bar's."""
    return [line for line in re.split(r"[\n\r]|\x1b\[A", err) if line and "it/s]" not in line and "?it/s" not in line]


@pytest.mark.parametrize("damage", [cut_off, missing_file, wrong_index])
def test_a_damaged_file_is_named_in_one_line(generate: Any, whole: Path, tmp_path: Path, damage: Any) -> None:
    folder, name = damaged(whole, tmp_path, damage)
    code, _, err = generate("flux", "--model-path", folder, *SMALL)
    (line,) = said(err)
    assert code == 2
    assert name in line
    assert "cannot be loaded" in line


def start(folder: Path, cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ditmesh", "generate", "flux", "--model-path", str(folder), "--parallel", "tp2"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "200"}
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, *SMALL], env=environment, cwd=cwd, **pipes)


@pytest.mark.slow
def test_a_damaged_file_ends_all_ranks(whole: Path, tmp_path: Path) -> None:
    folder, name = damaged(whole, tmp_path, cut_off)
    job = start(folder, tmp_path)
    _, err = job.communicate(timeout=120)
    assert job.returncode == 2, err
    assert len([line for line in said(err) if name in line]) == 1
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_rank_that_is_killed_while_it_loads_ends_the_job(whole: Path, tmp_path: Path) -> None:
    job = start(whole, tmp_path)
    ranks, victim = list[int](), 0
    while not victim:
        assert job.poll() is None, job.communicate()[1]
        ranks = children(job.pid)
        victim = next((rank for rank in ranks if str(whole) in Path(f"/proc/{rank}/maps").read_text()), 0)
        time.sleep(0.002)
    os.kill(victim, signal.SIGKILL)
    _, err = job.communicate(timeout=60)
    assert job.returncode == 128 + signal.SIGKILL
    assert [line for line in said(err) if "was ended by SIGKILL" in line] == said(err)[-1:]
    assert "Traceback" not in err
    assert not [rank for rank in ranks if Path(f"/proc/{rank}").exists()]
