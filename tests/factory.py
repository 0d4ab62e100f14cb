"""What the tests of the batch factory need beside it: a file of rows, and what is told of a job in other processes."""

import json
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest


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


def ranks_of(launcher: int) -> list[int]:
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return sorted(int(child) for child in children if b"ditmesh.launch" in Path(f"/proc/{child}/cmdline").read_bytes())


def whole_records(path: Path) -> list[dict]:
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert max(Counter(record["file"] for record in records).values()) == 1
    return records
