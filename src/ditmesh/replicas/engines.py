"""The engines by the names that `--engine` knows; this is the one place that knows them."""

from importlib.util import find_spec

from ditmesh.config import suggest
from ditmesh.replicas.engine import Engine
from ditmesh.replicas.local import LocalEngine, Written

ENGINES = ("local", "ray")


def engine_of(name: str, replicas: int, address: str | None = None, written: Written | None = None) -> Engine:
    """The engine of this name.

    Args:
        replicas: how many there will be at most.
        address: of a cluster that runs already, ``auto`` or HOST:PORT.
        written: gets what ranks of this machine write to their terminals.

    Raises:
        ValueError: there is none, or what it needs is not installed.
    """
    if name not in ENGINES:
        raise ValueError(f"--engine {name}: {suggest(name, ENGINES)}")
    if name == "ray":
        if find_spec("ray") is None:
            raise ValueError("--engine ray needs Ray, which is not installed; run: pip install 'ditmesh[ray]'")
        from ditmesh.replicas.ray import RayEngine

        return RayEngine(address)
    return LocalEngine(replicas, written=written)
