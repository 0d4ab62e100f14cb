"""What the Ray engine does that no other has to: replicas over nodes, nodes that go, clusters that are too small."""

from collections.abc import Iterator

import pytest
from ray.cluster_utils import Cluster

from ditmesh.replicas.ray import RayEngine
from ditmesh.replicas.requests import Retried, Stepped
from ditmesh.replicas.supervisor import Supervisor
from tests.replicas.watching import Watcher, demo, request

ONE = range(1, 2)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head that draws nothing; nodes come later."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield cluster
    cluster.shutdown()


def test_a_node_that_dies_costs_one_retry(cluster: Cluster) -> None:
    watcher = Watcher()
    first, _ = cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)
    with Supervisor(demo("ulysses2"), RayEngine(cluster.address), ONE, watcher) as supervisor:
        supervisor.submit(request("before", steps=40))
        before = watcher.picture("before")
        cluster.add_node(num_cpus=2)
        supervisor.submit(request("disturbed", steps=40))
        watcher.event("disturbed", Stepped)
        cluster.remove_node(first, allow_graceful=False)
        watcher.event("disturbed", Retried)
        assert watcher.picture("disturbed") == before


def test_too_small_a_cluster_says_what_is_missing(cluster: Cluster) -> None:
    watcher = Watcher()
    with Supervisor(demo("ring8"), RayEngine(cluster.address), ONE, watcher) as supervisor:
        supervisor.submit(request("too large"))
        watcher.wait(lambda: "needs 8 CPUs" in supervisor.replicas()[0].why)
        supervisor.cancel("too large")


def test_no_cluster_there() -> None:
    with pytest.raises(ValueError, match=r"no Ray cluster answers at 127[.]0[.]0[.]1:1 .*ray start --head"):
        RayEngine("127.0.0.1:1")
