"""The engines that the same tests run on."""

from collections.abc import Callable, Iterator

import pytest
from ray.cluster_utils import Cluster

from ditmesh.replicas.engine import Engine
from ditmesh.replicas.local import LocalEngine
from ditmesh.replicas.ray import RayEngine

MakeEngine = Callable[[int], Engine]  # for so many replicas at most


@pytest.fixture(scope="module", params=["local", "ray"])
def engine(request: pytest.FixtureRequest) -> Iterator[MakeEngine]:
    if request.param == "local":
        yield LocalEngine
        return
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False})
    yield lambda _: RayEngine(cluster.address)
    cluster.shutdown()
