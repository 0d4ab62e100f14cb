"""Count what is really sent, by torch's own communication operators."""

from collections import Counter
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class CommunicationCounter(TorchDispatchMode):
    """Count the collectives that run inside a ``with`` block and the bytes this rank puts on the wire for them.

    Reads torch's own communication operators, so it counts what is sent, not what we believe we send. The bytes of an
    all-reduce are those of its ring algorithm, ``2 (n - 1) / n`` of the tensor.

    Attributes:
        calls: number of calls by operator ("alltoall_base_", "allreduce_", "send", ...).
        bytes: bytes sent by operator.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    @property
    def total_bytes(self) -> int:
        """All bytes sent."""
        return sum(self.bytes.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            name = func._schema.name.removeprefix("c10d::")
            self.calls[name] += 1
            self.bytes[name] += _bytes_sent(name, args)
        return func(*args, **(kwargs or {}))


def _bytes_sent(name: str, args: tuple[Any, ...]) -> int:
    def size(tensors: Any) -> int:
        tensors = tensors if isinstance(tensors, (list, tuple)) else [tensors]
        return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))

    if name == "alltoall_base_":
        _, sent, group, _, splits = args[:5]
        group = dist.ProcessGroup.unbox(group)
        kept = splits[group.rank()] if splits else len(sent) // group.size()
        return size(sent) - kept * sent[:1].numel() * sent.element_size()
    if name == "_allgather_base_":
        return size(args[1]) * (dist.ProcessGroup.unbox(args[2]).size() - 1)
    if name == "allreduce_":
        degree = dist.ProcessGroup.unbox(args[1]).size()
        return 2 * size(args[0]) * (degree - 1) // degree
    if name == "send":
        return size(args[0])
    return 0 if name in ("recv_", "barrier") else size(args[0])
