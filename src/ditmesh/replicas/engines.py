"""The engines by the names that `--engine` knows; this is the one place that knows them."""

import re
from importlib.util import find_spec

from ditmesh.config import suggest
from ditmesh.replicas.engine import Engine
from ditmesh.replicas.local import LocalEngine, Written

ENGINES = ("local", "ray")
RANGE = re.compile(r"([1-9][0-9]{0,3})(?:\.\.([1-9][0-9]{0,3}))?")


def read_replicas(text: str) -> range:
    """How many replicas there may be, from 2 or 2..8.

    Raises:
        ValueError: it is neither a number nor a range.
    """
    found = RANGE.fullmatch(text)
    least, most = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if least > most:
        raise ValueError(f"--replicas {text} is no range; write it like 2..8, or 4.")
    return range(least, most + 1)


def check_engine(name: str, address: str | None = None) -> None:
    """Refuse an engine that is not there.

    Raises:
        ValueError: there is none of this name, what it needs is not installed, or it has no address.
    """
    if name not in ENGINES:
        raise ValueError(f"--engine {name}: {suggest(name, ENGINES)}")
    if name == "ray" and find_spec("ray") is None:
        raise ValueError("--engine ray needs Ray, which is not installed; run: pip install 'ditmesh[ray]'")
    if name != "ray" and address is not None:
        raise ValueError(f"--ray-address {address} is for a cluster; add --engine ray, or leave it out.")


def engine_of(name: str, replicas: int, address: str | None = None, written: Written | None = None) -> Engine:
    """The engine of this name.

    Args:
        replicas: how many there will be at most.
        address: of a cluster that runs already, ``auto`` or HOST:PORT.
        written: gets what ranks of this machine write to their terminals.

    Raises:
        ValueError: it is not there, or its cluster does not answer.
    """
    check_engine(name, address)
    if name == "ray":
        # Imported here: an extra has it.
        from ditmesh.replicas.ray import RayEngine

        return RayEngine(address)
    return LocalEngine(replicas, written=written)
