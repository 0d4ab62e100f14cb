"""torch's stores of one process, under the one name that type checkers know."""

from torch._C._distributed_c10d import HashStore, PrefixStore

__all__ = ["HashStore", "PrefixStore"]
