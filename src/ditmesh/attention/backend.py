"""The seam to diffusers' attention dispatcher: an attention backend that computes across a mesh.

diffusers asks each attention processor for ``_attention_backend`` and ``_parallel_config``. Setting the two on an
instance routes that processor, and no other, through ``attention`` below.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers.models.attention_dispatch import (
    AttentionBackendName,
    _AttentionBackendRegistry,
    _check_attention_backend_requirements,
    _maybe_download_kernel_for_backend,
    dispatch_attention_fn,
)
from torch import Tensor

from ditmesh.attention.local import CUDA_ONLY, KERNELS
from ditmesh.attention.ring import ring_attention
from ditmesh.attention.sequence import LayerContext
from ditmesh.attention.ulysses import gather_heads, scatter_heads

# B batch, S sequence (s local), H heads (h local), D head dim


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
    backend = module.processor._attention_backend
    return AttentionBackendName(backend or _AttentionBackendRegistry.get_active_backend()[0]).value


def reroute(module: Any, backend: AttentionBackendName, layer: LayerContext | None = None) -> Callable[[], None]:
    """Give an attention module a processor of its own that uses a backend, and return how to take that back."""
    before = module.processor
    # A copy, since one processor may serve many modules, in this pipeline or in another.
    module.processor = copy.copy(before)
    module.processor._attention_backend, module.processor._parallel_config = backend, layer

    def undo() -> None:
        module.processor = before

    return undo


def local_backend(name: str) -> AttentionBackendName:
    """diffusers' own backend of that name, for layers that need no mesh."""
    return AttentionBackendName(name)


def mesh_backend(name: str) -> AttentionBackendName:
    """The backend that computes across a mesh, with the named kernel on each rank.

    diffusers' list of names is closed, so this makes a name outside of it and registers that: nothing of diffusers'
    own is replaced.
    """
    backend = str.__new__(AttentionBackendName, f"ditmesh_{name}")
    backend._name_ = backend._value_ = f"ditmesh_{name}"
    if backend not in _AttentionBackendRegistry._backends:
        _AttentionBackendRegistry.register(backend)(partial(attention, name))
    return backend


def attention(
    kernel: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    _parallel_config: LayerContext | None = None,
) -> Tensor:
    """[B, s, H, D] each -> [B, s, H, D], with the arguments diffusers' dispatcher passes."""

    def local(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        if query.numel() == 0:  # a rank without tokens or heads; the kernels do not survive it
            return torch.empty_like(query)
        return dispatch_attention_fn(
            query, key, value, mask, dropout_p, is_causal, scale, enable_gqa, backend=local_backend(kernel)
        )

    if _parallel_config is None or not _parallel_config.streams:
        return local(query, key, value, attn_mask)
    if is_causal or dropout_p:
        raise ValueError(f"{_parallel_config.name}: causal attention and dropout do not work on a sequence in shards.")
    _check_shapes(query, key, attn_mask, _parallel_config)
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[2] // x.shape[2], dim=2) for x in (key, value))
    layer, masked = _parallel_config, attn_mask is not None
    held = layer.sequence.held(layer.streams)
    if all(is_own for _, is_own in held):
        return _across_ranks(query, key, value, masked, scale, local, kernel, layer)
    # Tokens that stand in for a share this rank does not have attend to nothing, and nothing to them.
    own = torch.cat([torch.full((tokens,), is_own) for tokens, is_own in held])
    whole = torch.zeros_like(query)
    query, key, value = (x[:, own] for x in (query, key, value))
    whole[:, own] = _across_ranks(query, key, value, masked, scale, local, kernel, layer)
    return whole


def _across_ranks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    masked: bool,
    scale: float | None,
    local: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor],
    kernel: str,
    layer: LayerContext,
) -> Tensor:
    """Ulysses inside, Ring outside; each is skipped where its axis has one rank."""
    sequence, streams = layer.sequence, layer.streams
    ulysses, ring, shards = sequence.ulysses, sequence.ring, sequence.shards(streams)
    rows = [shards[i : i + ulysses.size()] for i in range(0, len(shards), ulysses.size())]
    row = rows[ring.get_local_rank()]  # the ranks that trade heads with this one
    if ulysses.size() > 1:
        qkv_SB3HD = scatter_heads((query, key, value), row, ulysses)
    else:
        qkv_SB3HD = torch.stack([x.transpose(0, 1) for x in (query, key, value)], dim=2)
    if ring.size() > 1:
        mask = sequence.additive_key_mask(streams, query) if masked else None
        q_BHSD, kv_SB2HD = qkv_SB3HD[:, :, 0].permute(1, 2, 0, 3), qkv_SB3HD[:, :, 1:]
        out = ring_attention(q_BHSD, kv_SB2HD, [sum(r) for r in rows], mask, scale, KERNELS[kernel], ring)
        out_SBHD = out.permute(2, 0, 1, 3)
    else:
        mask = sequence.key_mask(streams, query) if masked else None
        q, k, v = qkv_SB3HD.permute(2, 1, 0, 3, 4)
        out_SBHD = local(q, k, v, mask).transpose(0, 1)
    if ulysses.size() > 1:
        return gather_heads(out_SBHD, row, query.shape[2], ulysses)
    return out_SBHD.transpose(0, 1)


def _check_shapes(query: Tensor, key: Tensor, mask: Tensor | None, layer: LayerContext) -> None:
    """Attention whose shape is not what the sheet says would be silently wrong: refuse it."""
    tokens = sum(tokens for tokens, _ in layer.sequence.held(layer.streams))
    expected = (len(query), 1, 1, tokens)
    given = expected if mask is None else tuple(mask.shape)
    if query.shape[1] != tokens or key.shape[1] != tokens or given != expected:
        raise ValueError(
            f"{layer.name} attends from {query.shape[1]} tokens to {key.shape[1]} with a mask {given}, where its "
            f"streams {layer.streams} have {tokens} tokens on this rank; the fact sheet does not cover this call."
        )
    if mask is not None and not set(layer.streams) & set(layer.sequence.masks):
        raise ValueError(f"{layer.name} is given a mask that the fact sheet's cp_plan does not cut.")
