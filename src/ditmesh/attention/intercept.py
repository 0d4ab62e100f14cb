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
        self._attend = attend

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call = self._attend if func is F.scaled_dot_product_attention else func
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
        with _Interception(attend(self)):
            return original(self, *args, **kwargs)

    return type(processor.__name__, (processor,), {"__call__": call})
