"""What rank 0 makes of a key is on every rank, whatever its size, and made once."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

SCRIPT = """
import os
from ditmesh.runtime.store import PART, from_first
from ditmesh.runtime.world import World

SIZES = {"empty": 0, "small": 3, "one part": PART, "parts": 9 * PART + 1}

def make(key):
    assert os.environ["RANK"] == "0", "made on another rank"
    return bytes([len(key)]) * SIZES[key]

made = from_first(list(SIZES), make, World.read(os.environ))
assert made == {key: bytes([len(key)]) * size for key, size in SIZES.items()}, {x: len(y) for x, y in made.items()}
"""


def test_every_rank_has_what_the_first_made() -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=3", "--no-python"]
    done = subprocess.run([*command, sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
