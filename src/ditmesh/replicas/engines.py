"""The engines by the names that `--engine` knows; this is the one place that knows them."""

from importlib.util import find_spec

from ditmesh.config import suggest
from ditmesh.replicas.engine import Engine
from ditmesh.replicas.local import LocalEngine

ENGINES = ("local", "ray")


def engine_of(name: str, replicas: int, address: str | None = None) -> Engine:
    """The engine of this name.

    Args:
        replicas: how many there will be at most.
        address: of a cluster that runs already, ``auto`` or HOST:PORT.

    Raises:
        ValueError: there is none, or what it needs is not installed.
    """
    check_engine(name, address)
    if name == "local":
        return LocalEngine(replicas)
    # Imported here: with it comes all of Ray.
    from ditmesh.replicas.ray import RayEngine

    return RayEngine(address)


def check_engine(name: str, address: str | None = None) -> None:
    """Refuse an engine that is not there, before anything is loaded."""
    if name not in ENGINES:
        raise ValueError(f"--engine {name}: {suggest(name, ENGINES)}")
    if name == "local" and address is not None:
        raise ValueError("--ray-address is for a cluster; add --engine ray, or leave it out.")
    if name == "ray" and find_spec("ray") is None:
        raise ValueError("--engine ray needs the package ray, which is not installed; pip install 'ditmesh[ray]'")
