"""diffusers' attention dispatcher, and processors that call torch's attention themselves, led to a backend of ours.

diffusers asks each attention processor for ``_attention_backend`` and ``_parallel_config``. Setting the two on an
instance routes that processor, and no other, through the backend that ``mesh_backend`` registers.
"""

import copy
import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import cache, partial, wraps
from typing import Any

import torch.nn.functional as F
from diffusers.models.attention_dispatch import (
    AttentionBackendName,
    _AttentionBackendRegistry,
    _check_attention_backend_requirements,
    _maybe_download_kernel_for_backend,
    dispatch_attention_fn,
)
from diffusers.models.attention_processor import (
    PAGCFGHunyuanAttnProcessor2_0,
    PAGCFGIdentitySelfAttnProcessor2_0,
    PAGCFGJointAttnProcessor2_0,
    PAGCFGSanaLinearAttnProcessor2_0,
    PAGHunyuanAttnProcessor2_0,
    PAGIdentitySanaLinearAttnProcessor2_0,
    PAGIdentitySelfAttnProcessor2_0,
    PAGJointAttnProcessor2_0,
)
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ditmesh.upstream.kernels import CUDA_ONLY, KERNELS
from ditmesh.upstream.modules import override

Attend = Callable[..., Tensor]

# Processors of perturbed-attention guidance, which cut a batch into the branches of a step.
MIXES_SAMPLES = (
    PAGCFGHunyuanAttnProcessor2_0, PAGCFGIdentitySelfAttnProcessor2_0, PAGCFGJointAttnProcessor2_0,
    PAGCFGSanaLinearAttnProcessor2_0, PAGHunyuanAttnProcessor2_0, PAGIdentitySanaLinearAttnProcessor2_0,
    PAGIdentitySelfAttnProcessor2_0, PAGJointAttnProcessor2_0,
)  # fmt: skip


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


def processors(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Every attention processor of a model, with the name of the module that holds it."""
    for name, module in model.named_modules():
        if "processor" in vars(module):
            yield name, vars(module)["processor"]


def keeps_samples_apart(processor: object) -> bool:
    """Whether each sample of a batch attends to itself alone: so it does in every model of diffusers without PAG."""
    kind = type(processor)
    kind = kind.__bases__[0] if kind.__module__ == __name__ else kind  # one that ``intercepted`` made
    return kind.__module__.startswith("diffusers.models.") and not isinstance(processor, MIXES_SAMPLES)


def check_backend(name: str, ring: int, device_type: str) -> None:
    """Refuse a kernel that is not there, or that cannot do what the layout needs.

    Raises:
        ValueError: an unknown name, a missing package, a kernel of another device, or one that cannot run in a ring.
    """
    known = [backend.value for backend in AttentionBackendName]
    if name not in known:
        raise ValueError(f"there is no attention backend {name!r}; use one of {', '.join(known)}.")
    if ring > 1 and name not in KERNELS:
        raise ValueError(
            f"ring_size={ring} needs the log-sum-exp of each rank's attention, which attention backend {name!r} does "
            f"not give; use one of {', '.join(KERNELS)}, or ulysses_size instead of ring_size."
        )
    if name in CUDA_ONLY and device_type != "cuda":
        raise ValueError(f"attention backend {name!r} runs on CUDA, and this is {device_type}; use 'native'.")
    try:
        _check_attention_backend_requirements(AttentionBackendName(name))
        _maybe_download_kernel_for_backend(AttentionBackendName(name))
    except (RuntimeError, ImportError) as error:
        raise ValueError(f"attention backend {name!r} cannot run here: {error}") from error


def kernel_of(module: Any) -> str:
    """The name of the kernel an attention module computes with: its own, or diffusers' active one."""
    if not _asks_dispatcher(module.processor):
        return AttentionBackendName.NATIVE.value
    backend = module.processor._attention_backend
    return AttentionBackendName(backend or _AttentionBackendRegistry.get_active_backend()[0]).value


def reroute(
    module: Any, backend: AttentionBackendName, layer: Any = None, names_backend: bool = False
) -> Callable[[], None]:
    """Give an attention module a processor of its own that uses a backend, and return how to take that back.

    ``names_backend``: the processor passes the dispatcher a backend that it does not hold.
    """
    before = module.processor
    # A copy, since one processor may serve many modules, in this pipeline or in another.
    module.processor = copy.copy(before)
    if names_backend or not _asks_dispatcher(before):
        module.processor.__class__ = intercepted(type(before), _dispatch)
        module.processor._ditmesh_route = (backend, layer)
    else:
        module.processor._attention_backend, module.processor._parallel_config = backend, layer

    def undo() -> None:
        module.processor = before

    return undo


def follow_backend(
    model: ModelMixin, check: Callable[[str], None], routes: ExitStack, route: Callable[[], ExitStack], undo: ExitStack
) -> None:
    """Let a user choose the kernel of layers that are led elsewhere, as of others.

    Args:
        model: it has the layers.
        check: refuses a kernel by its name.
        routes: leads the layers back; it is given what leads them back from where ``route`` has led them again.
        undo: takes what takes each change back.
    """

    def follow(method: Callable[..., None], name: str | None = None) -> None:
        check(name.lower() if name else AttentionBackendName(_AttentionBackendRegistry.get_active_backend()[0]).value)
        routes.close()
        try:
            method(*([name] if name else []))
        finally:
            routes.push(route())

    override(model, "set_attention_backend", partial(follow, model.set_attention_backend), undo)
    override(model, "reset_attention_backend", partial(follow, model.reset_attention_backend), undo)


def layer_of(processor: object) -> Any:
    """What ``reroute`` gave a processor."""
    held = vars(processor)
    return held["_ditmesh_route"][1] if "_ditmesh_route" in held else held.get("_parallel_config")


def _asks_dispatcher(processor: object) -> bool:
    """Whether a processor passes what it holds as ``_attention_backend`` and ``_parallel_config`` to the dispatcher."""
    return "_parallel_config" in dir(type(processor))


def _dispatch(processor: Any) -> Callable[..., Tensor]:
    """torch's ``scaled_dot_product_attention``, [B, H, S, D], by the backend a processor holds."""

    samples = itertools.count()  # of the calls in one call of the processor

    def attend(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        backend, layer = processor._ditmesh_route
        sample = next(samples)
        if layer is not None and sample:
            layer = replace(layer, sample=sample)
        return dispatch_attention_fn(q, k, v, *args, backend=backend, parallel_config=layer, **kwargs).transpose(1, 2)

    return attend


def local_backend(name: str) -> AttentionBackendName:
    """diffusers' own backend of that name, for layers that need no mesh."""
    return AttentionBackendName(name)


def mesh_backend(name: str, attention: Callable[..., Tensor]) -> AttentionBackendName:
    """The backend that computes ``attention`` across a mesh, with the named kernel on each rank.

    diffusers' list of names is closed, so this makes a name outside of it and registers that: nothing of diffusers'
    own is replaced.
    """
    backend = str.__new__(AttentionBackendName, f"ditmesh_{name}")
    backend._name_ = backend._value_ = f"ditmesh_{name}"
    if backend not in _AttentionBackendRegistry._backends:
        _AttentionBackendRegistry.register(backend)(partial(attention, name))
    return backend
