"""Attention across the ranks that share a sequence: Ulysses inside, Ring outside."""

from collections.abc import Callable

import torch
from torch import Tensor

from ditmesh.parallel.context.ring import ring_attention
from ditmesh.parallel.context.sequence import LayerContext
from ditmesh.parallel.context.ulysses import gather_heads, scatter_heads
from ditmesh.upstream.dispatcher import dispatch_attention_fn, local_backend
from ditmesh.upstream.kernels import KERNELS

# B batch, S sequence (s local), H heads (h local), D head dim


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

    layer = _parallel_config
    if layer is None or not layer.queries:
        return local(query, key, value, attn_mask)
    if is_causal or dropout_p:
        raise ValueError(f"{layer.name}: causal attention and dropout do not work on a sequence cut into shards.")
    layer = layer.present()
    if attn_mask is not None and attn_mask.ndim == 2:  # diffusers' short form of a mask for all heads and queries
        attn_mask = attn_mask[:, None, None]
    if "" in layer.keys:
        held = sum(tokens for tokens, _ in layer.sequence.held(layer.queries))
        if key.shape[1] <= layer.sequence.lengths[""]:  # a call for tokens that every rank holds whole
            return local(query, key, value, attn_mask)
        # Every rank gives a share of the keys that all hold: they are a stream like any other then.
        whole = layer.sequence.lengths[""] = key.shape[1] - held
        key, value = (torch.cat([layer.sequence.cut(x[:, :whole], 1, ""), x[:, whole:]], dim=1) for x in (key, value))
    _check_shapes(query, key, attn_mask, layer)
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[2] // x.shape[2], dim=2) for x in (key, value))
    own = _own_tokens(layer.sequence.held(layer.queries))
    own_keys = _own_tokens(layer.sequence.held(layer.keys))
    key, value = (x[:, own_keys] for x in (key, value))
    out = _across_shards(query[:, own], key, value, attn_mask, scale, local, kernel, layer)
    return out if isinstance(own, slice) else torch.zeros_like(query).index_copy(1, own.nonzero()[:, 0], out)


def _own_tokens(held: list[tuple[int, bool]]) -> slice | Tensor:
    """What selects a rank's own tokens: those that stand in for a share it does not have attend to nothing."""
    if all(is_own for _, is_own in held):
        return slice(None)
    return torch.cat([torch.full((tokens,), is_own) for tokens, is_own in held])


def _across_shards(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    given_mask: Tensor | None,
    scale: float | None,
    local: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor],
    kernel: str,
    layer: LayerContext,
) -> Tensor:
    """Each axis is skipped where it has one rank. Patches remember each other."""
    sequence, ulysses, ring = layer.sequence, layer.sequence.ulysses, layer.sequence.ring
    row, rows, key_rows = ring.get_local_rank(), sequence.rows(layer.queries), sequence.rows(layer.keys)
    if ulysses.size() > 1 and layer.queries == layer.keys:
        q, kv = scatter_heads((query, key, value), rows[row], ulysses).split([1, 2], dim=2)
    elif ulysses.size() > 1:
        q = scatter_heads((query,), rows[row], ulysses)
        kv = scatter_heads((key, value), key_rows[row], ulysses)
    else:
        q, kv = query.transpose(0, 1)[:, :, None], torch.stack([x.transpose(0, 1) for x in (key, value)], dim=2)
    kv = sequence.remember(layer, kv)
    rotates = ring.size() > 1 and not sequence.remembers
    mask = _mask(given_mask, query, query.dtype if rotates else None, layer)
    q_BHSD = q[:, :, 0].permute(1, 2, 0, 3)
    if rotates:
        lengths = [sum(row) for row in key_rows]
        out_SBHD = ring_attention(q_BHSD, kv, lengths, mask, scale, KERNELS[kernel], ring).permute(2, 0, 1, 3)
    else:
        k, v = kv.permute(2, 1, 0, 3, 4)
        out_SBHD = local(q_BHSD.transpose(1, 2), k, v, mask).transpose(0, 1)
    if ulysses.size() > 1:
        return gather_heads(out_SBHD, rows[row], query.shape[2], ulysses)
    return out_SBHD.transpose(0, 1)


def _mask(given: Tensor | None, query: Tensor, additive: torch.dtype | None, layer: LayerContext) -> Tensor | None:
    """The mask of this rank's queries, if there is one; of one sample, if the layer takes them one by one."""
    if given is None and not layer.sequence.unseen & set(layer.keys):
        return None
    mask = layer.sequence.mask(given, layer.queries, layer.keys, additive)
    return mask[layer.sample : layer.sample + 1] if len(mask) > len(query) else mask


def _check_shapes(query: Tensor, key: Tensor, mask: Tensor | None, layer: LayerContext) -> None:
    """Attention whose shape is not what the sheet says would be silently wrong: refuse it."""
    sequence = layer.sequence
    tokens, keys = (sum(tokens for tokens, _ in sequence.held(streams)) for streams in (layer.queries, layer.keys))
    wrong = (query.shape[1], key.shape[1]) != (tokens, keys)
    if mask is not None and not isinstance(mask, Tensor):  # a block mask of flex attention
        wrong = True
    elif mask is not None:
        whole, whole_keys = (sum(sequence.lengths[name] for name in streams) for streams in (layer.queries, layer.keys))
        recorded = set(layer.keys) & set(sequence.masks)
        wrong |= mask.ndim != 4 or mask.shape[1] != 1 or mask.shape[2] not in (1, tokens if recorded else whole)
        wrong |= mask.shape[-1] != (keys if recorded else whole_keys)
    if wrong:
        raise ValueError(
            f"{layer.name} attends from {query.shape[1]} tokens to {key.shape[1]} with a mask "
            f"{None if mask is None else tuple(mask.shape)}, where its streams {layer.queries} and {layer.keys} have "
            f"{tokens} and {keys} on this rank; the fact sheet does not cover this call."
        )
