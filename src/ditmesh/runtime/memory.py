"""The memory of this process as the system sees it."""

import ctypes
import sys
from contextlib import suppress


def give_back() -> None:
    """Give freed memory back to the system, which glibc keeps where something small that is in use lies behind it."""
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)
