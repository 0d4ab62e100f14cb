"""Process groups that their members alone make and end, as often as they like.

torch's ``new_group`` is a matter of the whole world and counts its calls, so that ranks which make a group anew after a
failure would need all others to do the same.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, PrefixStore, Store, TCPStore
from torch.distributed import distributed_c10d as c10d

__all__ = [
    "HashStore",
    "PrefixStore",
    "Store",
    "TCPStore",
    "break_group",
    "end_group",
    "is_of_broken_group",
    "make_group",
    "world_store",
]

BROKEN = ("/gloo/", "caused pair closure")  # gloo's errors have no class of their own
AT_ONCE = timedelta(milliseconds=1)
NO_TAG_OF_OURS = 77_777


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


def break_group(group: dist.ProcessGroup) -> None:
    """Make whoever waits in one of a group's collectives get an error, here in another thread and on other ranks.

    NCCL aborts: here alone, so that every rank has to. gloo cannot, but a message that does not come in time closes
    all connections of its group at both ends; so one is asked for that nobody sends.
    """
    group.abort()
    if group.size() > 1 and "gloo" in str(dist.get_backend_config(group)):
        with suppress(RuntimeError):  # what it is for
            awaited = dist.irecv(
                torch.empty(1), group=group, group_src=(group.rank() + 1) % group.size(), tag=NO_TAG_OF_OURS
            )
            assert awaited is not None, "it is asked of another rank"
            awaited.wait(AT_ONCE)


def is_of_broken_group(error: BaseException) -> bool:
    """Whether a collective says that its group is broken, or that it waited too long."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in BROKEN)
    )


def device_of_messages(group: dist.ProcessGroup, device_type: str) -> str:
    """Where a group sends the few numbers from that Python reads: a GPU would have to be waited for."""
    return "cpu" if "gloo" in str(dist.get_backend_config(group)) else device_type


def end_group(group: dist.ProcessGroup) -> None:
    """End a group; whatever is under way in it fails, on all of its ranks."""
    break_group(group)
    dist.destroy_process_group(group)


def world_store() -> Store:
    """The store in which the world met."""
    return c10d._get_default_store()
