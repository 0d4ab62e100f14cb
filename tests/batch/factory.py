"""What the tests of the batch factory share: a command line as a batch, a file of rows, and what lies in a folder."""

import json
import os
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

RANK = b"ditmesh.replicas.process"
SMALL = ["--height", "32", "--width", "48", "--num_inference_steps", "1"]


def parse(arguments, environment, rank=0, size=1):
    """The batch of a command line, alone or as a process of torchrun."""
    from typer.main import get_command

    from ditmesh.cli.app import app
    from ditmesh.cli.flags import ALIKE
    from ditmesh.cli.t2i.job import describe_batch
    from ditmesh.cli.t2i.options import BatchOptions
    from ditmesh.runtime.world import World

    command = get_command(app).commands["t2i"]
    given = command.make_context("t2i", list(arguments), **ALIKE).params
    world = World(rank, size, rank, size, launched=size > 1)
    return describe_batch(BatchOptions(**given), world, environment | {"FLUX_DIR": os.environ["FLUX_DIR"]}), world


def pictures(folder) -> dict[str, np.ndarray]:
    found = {}
    for path in sorted(Path(folder).rglob("*.png")):
        if path.name != "contact.png":
            with Image.open(path) as picture:
                found[path.name] = np.asarray(picture).astype(int)
    return found


def manifest(folder) -> list[dict]:
    return [json.loads(line) for line in (Path(folder) / "manifest.jsonl").read_text("utf-8").splitlines()]


def rows_file(path: Path) -> None:
    """200 rows of which 5 are malformed."""
    bad = {7: "{", 50: '{"prompt": ""}', 90: '{"promt": "x"}', 120: "[1]", 199: '{"prompt": "x", "height": "tall"}'}
    path.write_text("".join(bad.get(i, json.dumps({"prompt": f"picture {i}"})) + "\n" for i in range(200)))


def wait_for(count: int, path: Path, process) -> None:
    deadline = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError):
            if path.read_bytes().count(b"\n") >= count:
                return
        time.sleep(0.02)
    pytest.fail(f"{path} never had {count} lines: {process.communicate()}")


def ranks_of(supervisor: int) -> list[int]:
    """The processes of its ranks."""
    found = []
    for task in Path(f"/proc/{supervisor}/task").iterdir():
        children = (task / "children").read_text().split()
        found += [int(one) for one in children if RANK in Path(f"/proc/{one}/cmdline").read_bytes()]
    return sorted(found)


def whole_records(path: Path) -> list[dict]:
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert max(Counter(record["file"] for record in records).values()) == 1
    return records
