"""Torch's operators, by the names they have inside: which of them multiply, attend, send, or only say anew."""

from typing import Any

COLLECTIVES = {
    "allreduce_": "all_reduce",
    "_allgather_base_": "all_gather",
    "allgather_": "all_gather",
    "alltoall_base_": "all_to_all",
    "_reduce_scatter_base_": "reduce_scatter",
    "broadcast_": "broadcast",
    "send": "send",
    "recv_": "receive",
}
# Where the two factors are among the arguments.
PRODUCTS = {"mm": 0, "bmm": 0, "_int_mm": 0, "_scaled_mm": 0, "dot": 0, "mv": 0, "addmm": 1, "baddbmm": 1}
ATTENTION = ("_scaled_dot_product", "_flash_attention", "_efficient_attention")
CONVOLUTIONS = ("convolution", "_convolution")
# These run no kernel.
FREE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_local_scalar_dense", "lift_fresh"}


def name_of(func: Any) -> str:
    """An operator's name, whichever of its overloads it is."""
    return func.overloadpacket.__name__


def returns_given(func: Any) -> bool:
    """Whether what it returns is memory of an argument."""
    return any(returned.alias_info is not None for returned in func._schema.returns)


def is_view(func: Any) -> bool:
    """Whether it says anew what is there, and writes nothing."""
    return any(x.alias_info is not None and not x.alias_info.is_write for x in func._schema.returns)
