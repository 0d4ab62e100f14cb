"""One rank of many, alone: a process group in which nobody is there, and what the others would have said."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.testing._internal.distributed.fake_pg  # pyright: ignore[reportUnusedImport]  # the backend "fake"

from ditmesh.runtime.mesh import leave_ranks
from ditmesh.upstream.process_groups import HashStore

ASYNC = "async_op"  # the argument of a collective that says whether it is waited for later


def group_of(args: tuple[Any, ...]) -> dist.ProcessGroup:
    """The group among the arguments of one of torch's operators that send."""
    boxed = next(x for x in args if isinstance(x, torch.ScriptObject))
    return dist.ProcessGroup.unbox(boxed)


def is_waited_for_at_once(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether who began a collective waits for it there and then; sending and receiving never do."""
    names = [argument.name for argument in func._schema.arguments]
    return ASYNC in names and not dict(zip(names, args, strict=False)).get(ASYNC, True)


@contextmanager
def alone(rank: int, world_size: int) -> Iterator[None]:
    """Be this rank of a world of so many. What is received is anything; objects are those that were said last here."""
    said: list[Any] = []
    tell = dist.broadcast_object_list

    def broadcast_object_list(
        objects: list[Any], *args: Any, group: Any = None, group_src: Any = None, **_: Any
    ) -> None:
        if dist.get_rank(group) == group_src:
            said[:] = objects
        elif said:
            objects[:] = said

    dist.init_process_group("fake", rank=rank, world_size=world_size, store=HashStore())
    dist.broadcast_object_list = broadcast_object_list
    try:
        yield
    finally:
        dist.broadcast_object_list = tell
        leave_ranks()
