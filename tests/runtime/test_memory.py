"""The memory of a process as the system sees it."""

import sys
from pathlib import Path

import pytest
import torch

from ditmesh.runtime.memory import give_back


def resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_lies_between_things_in_use_is_given_back() -> None:
    freed, kept = list[torch.Tensor](), list[torch.Tensor]()
    for _ in range(1000):
        freed.append(torch.ones(2**14))  # too small for pages of its own
        kept.append(torch.ones(64))
    before, size = resident(), sum(x.nbytes for x in freed)
    freed.clear()
    give_back()
    assert before - resident() > size / 2
