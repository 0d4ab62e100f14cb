"""Process groups that their members alone make and end, as often as they like.

torch's ``new_group`` is a matter of the whole world and counts its calls, so that ranks which make a group anew after a
failure would need all others to do the same.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, PrefixStore, Store
from torch.distributed import distributed_c10d as c10d

__all__ = ["HashStore", "PrefixStore", "Store", "end_group", "make_group", "world_store"]


def make_group(ranks: Sequence[int], name: str, timeout: timedelta) -> dist.ProcessGroup:
    """A group of these ranks of the world under a name that none had before; its members meet in the job's store."""
    world: Any = c10d._world
    backend, _ = world.pg_map[dist.group.WORLD]
    make: Any = c10d._new_process_group_helper
    group, _ = make(
        len(ranks), ranks.index(dist.get_rank()), list(ranks), backend, world_store(), name, timeout=timeout
    )
    world.pg_group_ranks[group] = {rank: place for place, rank in enumerate(ranks)}
    return group


def end_group(group: dist.ProcessGroup) -> None:
    """End a group. Whoever waits in one of its collectives, here or on another rank, gets an error."""
    dist.destroy_process_group(group)


def world_store() -> Store:
    """The store in which the world met."""
    return c10d._get_default_store()
