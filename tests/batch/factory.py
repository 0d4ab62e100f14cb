"""What the tests of the batch factory share: to draw on ranks, a file of rows, and what is told of a job elsewhere."""

import json
import os
import socket
import time
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SMALL = ["--height", "32", "--width", "48", "--num_inference_steps", "1"]


def parse(arguments, environment, rank=0, size=1):
    """The batch of a command line, as one of the ranks makes it."""
    from typer.main import get_command

    from ditmesh.cli.app import app
    from ditmesh.cli.t2i.job import describe_batch
    from ditmesh.cli.t2i.options import BatchOptions
    from ditmesh.runtime.world import World

    command = get_command(app).commands["t2i"]
    given = command.make_context("t2i", list(arguments)).params
    world = World(rank, size, rank, size, launched=size > 1)
    return describe_batch(BatchOptions(**given), world, environment | {"FLUX_DIR": os.environ["FLUX_DIR"]}), world


def draw(arguments, environment, flux, folder, patience=None, victim=None):
    """Draw on the ranks of a pool; the exit code, or what the ranks refused."""
    import torch.distributed as dist
    from torch.distributed import TCPStore

    from ditmesh.batch import drawing
    from ditmesh.cli.t2i.run import run
    from ditmesh.job.classes import check_job

    os.environ["FLUX_DIR"] = flux
    os.chdir(folder)
    rank, size = dist.get_rank(), dist.get_world_size()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = [free.getsockname()[1]]
    dist.broadcast_object_list(port)
    store = TCPStore("127.0.0.1", port[0], size, rank == 0, wait_for_workers=False)
    batch, world = parse(arguments, environment, rank, size)
    before = drawing.draw, drawing.PATIENCE
    try:
        if victim is not None:
            drawing.draw = failing(drawing.draw, *victim)
            drawing.PATIENCE = timedelta(seconds=patience)
        return run(batch, check_job(batch.job), world, store)
    except ValueError as error:
        return str(error)
    finally:
        drawing.draw, drawing.PATIENCE = before
        dist.barrier()  # the store lives on rank 0


def failing(drawn, prompt, ranks, times):
    """`draw` that fails on these ranks for this prompt, so many times."""
    import torch.distributed as dist

    left = [times]

    def wrapped(pipe, pictures):
        if any(picture.prompt == prompt for picture in pictures) and dist.get_rank() in ranks and left[0]:
            left[0] -= 1
            raise RuntimeError("the cause")
        return drawn(pipe, pictures)

    return wrapped


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


def ranks_of(launcher: int) -> list[int]:
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return sorted(
        int(child) for child in children if b"ditmesh.runtime.launch" in Path(f"/proc/{child}/cmdline").read_bytes()
    )


def whole_records(path: Path) -> list[dict]:
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert max(Counter(record["file"] for record in records).values()) == 1
    return records
