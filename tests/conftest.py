"""The ranks every test shares."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # ranks inherit it; two ranks on two cores must not fight over them

from collections.abc import Iterator

import pytest
import torch
from diffusers.utils import logging as diffusers_logging
from hypothesis import settings
from transformers.utils import logging as transformers_logging

from tests.ranks import Ranks
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
    parser.addoption("--quick", action="store_true", help="two cases of each test that is not marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without a GPU its tests are not there, rather than skipped; nothing is proven by them alone."""
    left_out = [] if torch.cuda.is_available() else [item for item in items if item.get_closest_marker("gpu")]
    if config.getoption("--quick"):
        cases: dict[str, list[pytest.Item]] = {}
        for item in items:
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
        left_out += [item for same in cases.values() for item in same[1:-1]]
        left_out += [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=list(dict.fromkeys(left_out)))
    items[:] = [item for item in items if item not in set(left_out)]


@pytest.fixture
def forked(pool, monkeypatch) -> None:
    """Let the replicas of a command have ranks that are forked, which begin at once."""
    from ditmesh.replicas import engines
    from tests.batch.forked import ForkedEngine

    monkeypatch.setattr(engines, "LocalEngine", ForkedEngine)


@pytest.fixture
def t2i(forked, monkeypatch, capsys):
    """Run `ditmesh t2i` in this process: its exit code, stdout and stderr."""
    from ditmesh.cli import main

    monkeypatch.setenv("COLUMNS", "200")
    loud = transformers_logging.get_verbosity(), diffusers_logging.get_verbosity()

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(["t2i", *map(str, arguments)])
        return int(end.value.code or 0), *capsys.readouterr()

    yield run
    transformers_logging.set_verbosity(loud[0])
    diffusers_logging.set_verbosity(loud[1])
    transformers_logging.enable_progress_bar()
