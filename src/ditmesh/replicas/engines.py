"""The engines by the names that `--engine` knows; this is the one place that knows them."""

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
        raise ValueError(
            f"--engine ray{f' at {address}' if address else ''}: this ditmesh has no engine for Ray yet; install one "
            f"that has it: pip install -U 'ditmesh[ray]', or leave --engine out, which draws on this machine."
        )
    return LocalEngine(replicas, written=written)
