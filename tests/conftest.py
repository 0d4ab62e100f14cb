"""The ranks every test shares."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # ranks inherit it; two ranks on two cores must not fight over them

from collections.abc import Iterator

import pytest
import torch

from tests.ranks import Ranks

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    pool = Ranks()
    yield pool
    pool.close()
