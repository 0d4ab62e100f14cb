"""Models of a hub: fetched by one rank while the others wait, then read from the cache, and never asked for in vain."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from huggingface_hub import constants

import ditmesh
from tests.loading.hub import MODEL, Hub, hub

RANKS = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "tests.loading.hub"]


@pytest.fixture(scope="module")
def fetched(flux: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hub, Path]]:
    """A hub that two ranks have loaded from, and their folder."""
    folder = tmp_path_factory.mktemp("fetched")
    with hub(Path(flux)) as server:
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")} | {
            "HF_ENDPOINT": server.url,
            "HF_HOME": str(folder / "home"),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        done = subprocess.run(
            [*RANKS, str(folder)], env=environment, capture_output=True, text=True, timeout=280, check=False
        )
        assert done.returncode == 0, done.stderr
        yield server, folder


def told(folder: Path, what: str) -> list[str]:
    return [json.loads((folder / f"{rank}.json").read_text())[what] for rank in (0, 1)]


@pytest.mark.slow
def test_one_rank_fetches_each_file_once(fetched: tuple[Hub, Path]) -> None:
    server, folder = fetched
    assert told(folder, "good") == ["", ""]
    weights = [name for name in server.files if name.endswith(".safetensors")]
    assert weights
    # Once into each of the two caches that could be written; of what did not fit, the rest once more.
    assert all(server.sent.count(name) <= 3 for name in weights)
    assert all(server.sent.count(name) == 2 for name in server.files if name.endswith("/config.json"))


@pytest.mark.slow
@pytest.mark.parametrize(("what", "why"), [("not writable", "Not a directory"), ("full", "File too large")])
def test_a_cache_that_takes_no_files_is_one_error_on_all_ranks(fetched: tuple[Hub, Path], what: str, why: str) -> None:
    first, second = told(fetched[1], what)
    assert first == second
    assert first.startswith(f"{MODEL} cannot be loaded: ")
    assert why in first
    assert "\n" not in first
    assert told(fetched[1], "no longer full") == ["", ""]


@pytest.mark.slow
def test_what_is_here_never_touches_the_network(
    fetched: tuple[Hub, Path], flux: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a cache that can only be read is read."""

    def refuse(*_: object) -> NoReturn:
        raise AssertionError("the network was asked")

    cache = fetched[1] / "good"
    for path in [*cache.rglob("*"), cache]:
        if not path.is_symlink():
            path.chmod(0o555 if path.is_dir() else 0o444)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    ditmesh.from_pretrained(flux, device="cpu")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    ditmesh.from_pretrained(MODEL, cache_dir=cache, device="cpu")
    with pytest.raises(
        ValueError, match=r"^anybody/other cannot be loaded: .*outgoing traffic has been disabled"
    ) as error:
        ditmesh.from_pretrained("anybody/other", cache_dir=cache, device="cpu")
    assert "\n" not in str(error.value)
