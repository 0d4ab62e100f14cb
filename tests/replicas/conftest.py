"""The engines that the same tests run on."""

from collections.abc import Callable

import pytest

from ditmesh.replicas.engine import Engine
from ditmesh.replicas.local import LocalEngine

MakeEngine = Callable[[int], Engine]  # for so many replicas at most


@pytest.fixture(scope="module", params=["local"])
def engine(request: pytest.FixtureRequest) -> MakeEngine:
    return {"local": LocalEngine}[request.param]
