"""The ranks every test shares."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # ranks inherit it; two ranks on two cores must not fight over them

from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
import torch
from diffusers.utils import logging as diffusers_logging
from hypothesis import settings
from transformers.utils import logging as transformers_logging

from tests.ranks import Ranks
from tests.sampling import sample
from tests.tiny import tiny_path

torch.set_num_threads(1)
settings.register_profile("untimed", deadline=None)  # tests never time: a busy machine is no failure
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def pool() -> Iterator[Ranks]:
    pool = Ranks()
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def ranks(pool: Ranks) -> Iterator[Ranks]:
    yield pool
    pool.rest()


@pytest.fixture(scope="session")
def flux(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny FLUX.1."""
    return str(tiny_path("flux", tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def generate(monkeypatch, tmp_path, capsys):
    """Run `ditmesh generate` in this process and in an empty folder: its exit code, stdout and stderr."""
    from ditmesh.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    loud = transformers_logging.get_verbosity(), diffusers_logging.get_verbosity()

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(["generate", *map(str, arguments)])
        return int(end.value.code or 0), *capsys.readouterr()

    yield run
    transformers_logging.set_verbosity(loud[0])
    diffusers_logging.set_verbosity(loud[1])
    transformers_logging.enable_progress_bar()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cases", choices=("all", "sample", "quick"), default="all", help=(
        "sample: of large matrices, cells that show all there is to show (see tests/sampling.py); "
        "quick: two cases of each test that is not marked slow"))  # fmt: skip
    parser.addoption("--sample-seed", type=int, help="which cells a sample has; the date, unless this is given")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--sample-seed") is None:  # workers are given the one of the run
        config.option.sample_seed = int(f"{date.today():%Y%m%d}")


def pytest_report_header(config: pytest.Config) -> str | None:
    if config.getoption("--cases") == "sample":
        return f"sample of cases: repeat it with --cases sample --sample-seed {config.getoption('--sample-seed')}"
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without a GPU its tests are not there, rather than skipped; nothing is proven by them alone."""
    left_out = [] if torch.cuda.is_available() else [item for item in items if item.get_closest_marker("gpu")]
    tests: dict[str, list[pytest.Function]] = {}
    for item in items:
        if isinstance(item, pytest.Function):
            tests.setdefault(item.nodeid.partition("[")[0], []).append(item)
    match config.getoption("--cases"):
        case "quick":
            left_out += [item for cases in tests.values() for item in cases[1:-1]]
            left_out += [item for item in items if item.get_closest_marker("slow")]
        case "sample":
            for cells in tests.values():
                if cells[0].get_closest_marker("matrix"):
                    drawn = sample([cell.callspec.params for cell in cells], config.getoption("--sample-seed"))
                    left_out += [cell for number, cell in enumerate(cells) if number not in drawn]
        case _:
            pass
    config.hook.pytest_deselected(items=list(dict.fromkeys(left_out)))
    kept = set(items) - set(left_out)
    items[:] = [item for item in longest_first(items) if item in kept]


def longest_first(items: list[pytest.Item]) -> list[pytest.Item]:
    """File by file, those with the most to do first: workers take files in turn, and none is to begin a long one last.

    A test that is marked slow is as long as some twenty others.
    """
    length = Counter[Path]()
    for item in items:
        length[item.path] += 20 if item.get_closest_marker("slow") else 1
    return sorted(items, key=lambda item: (-length[item.path], item.path))
