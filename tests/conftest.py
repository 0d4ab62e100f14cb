"""The ranks every test shares."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # ranks inherit it; two ranks on two cores must not fight over them

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from tests.ranks import Ranks

torch.set_num_threads(1)
settings.register_profile("untimed", deadline=None)  # tests never time: a busy machine is no failure
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    pool = Ranks()
    yield pool
    pool.close()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without a GPU its tests are not there, rather than skipped; nothing is proven by them alone."""
    if not torch.cuda.is_available():
        gpu = [item for item in items if item.get_closest_marker("gpu")]
        config.hook.pytest_deselected(items=gpu)
        items[:] = [item for item in items if item not in gpu]
