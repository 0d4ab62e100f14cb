"""One server of the demo model for the tests that only ask it, and a browser for those of the page."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

import ditmesh
from tests.serve.served import Served
from tests.upstream.lora import save_lora

DEMO = str(Path(ditmesh.__file__).parent / "demo_model")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The demo model on two ranks, with a key, LoRA weights by name and a short queue."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "loras").mkdir()
    save_lora(DEMO, folder / "loras").rename(folder / "loras" / "warm.safetensors")
    flags = ["--parallel", "ulysses2", "--max-queue", "6", "--max-body", "1", "--lora-dir", str(folder / "loras")]
    server = Served(folder, "demo", *flags)
    server.ready()
    yield server
    pids = server.ranks()
    assert server.stop() == 0
    assert pids


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's chromium, without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        yield browser
        browser.close()


def find_chromium() -> str:
    """A browser of this machine; as root, it is installed where there is none."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "install", "-y", "-qq", "chromium"], check=True, stdout=subprocess.DEVNULL)
        found = shutil.which("chromium")
    assert found, "the page is tested in a real browser, and there is none; run: apt-get install -y chromium"
    return found
