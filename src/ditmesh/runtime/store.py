"""The store of a job, through which its ranks speak before they are a process group, and beside one."""

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from torch.distributed.rendezvous import rendezvous  # pyright: ignore[reportUnknownVariableType]

from ditmesh.runtime.launch import LOOPBACK
from ditmesh.runtime.world import World
from ditmesh.upstream.process_groups import HashStore, PrefixStore, TCPStore

PREFIX = "ditmesh/work"
FOREVER = timedelta(days=30)  # a rank may wait that long for another: torchrun ends it if that one dies
PART = 2**20  # bytes at once: a store refuses values of more than 8 MiB


def job_store(environment: Mapping[str, str] = os.environ) -> Any:
    """The store that all ranks of this job share; of a process that nobody launched, its own.

    Call it once in a process.
    """
    if "RANK" not in environment:
        return PrefixStore(PREFIX, HashStore())
    store, _, _ = next(rendezvous("env://"))
    store.set_timeout(FOREVER)
    return PrefixStore(PREFIX, store)


def serve_store(handle: int, host: str = LOOPBACK) -> Any:
    """Hold the store of a job here, on a socket that listens at an address of this machine, as long as it is kept."""
    with socket.socket(fileno=os.dup(handle)) as listener:
        port = listener.getsockname()[1]
    return TCPStore(host, port, None, True, wait_for_workers=False, master_listen_fd=handle)


def from_first(keys: Sequence[str], make: Callable[[str], bytes], world: World) -> dict[str, bytes]:
    """What rank 0 makes of each key; every rank of the world must ask."""
    made = {key: make(key) for key in keys if world.rank == 0}
    if world.size == 1:
        return made
    store = job_store()
    for key in keys:
        if world.rank == 0:
            for at in range(0, len(made[key]), PART):
                store.set(f"{key}/{at}", made[key][at : at + PART])
            store.set(key, str(len(made[key])))
        else:
            made[key] = b"".join(store.get(f"{key}/{at}") for at in range(0, int(store.get(key)), PART))
    store.set(f"here/{world.rank}", "")
    if world.rank == 0:
        store.wait([f"here/{rank}" for rank in range(world.size)])  # this process may be the one that holds it
    return made
