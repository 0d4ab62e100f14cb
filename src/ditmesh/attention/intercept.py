"""Reach processors that call torch's attention themselves instead of diffusers' dispatcher."""

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

Attend = Callable[..., Tensor]


class _Interception(TorchFunctionMode):
    """Send ``F.scaled_dot_product_attention`` elsewhere inside a ``with`` block of this thread."""

    def __init__(self, attend: Attend):
        super().__init__()
        self._attend, self.attended = attend, False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_attention = func is F.scaled_dot_product_attention
        self.attended |= is_attention
        call = self._attend if is_attention else func
        return call(*args, **(kwargs or {}))


@cache
def intercepted(processor: type, attend: Callable[[Any], Attend]) -> type:
    """A subclass of a processor class whose calls of torch's attention become ``attend(processor)``.

    A subclass, since diffusers passes a processor the arguments its ``__call__`` declares, and tells processors apart
    by their class.
    """
    original: Any = vars(processor)["__call__"]

    @wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _Interception(attend(self)) as interception:
            result = original(self, *args, **kwargs)
        if not interception.attended:
            raise ValueError(
                f"{processor.__name__} did not call torch's attention, so its attention cannot be spread over ranks; "
                f"leave diffusers' active attention backend at 'native'."
            )
        return result

    return type(processor.__name__, (processor,), {"__call__": call})
