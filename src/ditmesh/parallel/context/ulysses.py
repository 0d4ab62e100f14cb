"""Ulysses: trade a shard of the tokens for a share of the heads, attend over all tokens, and trade back.

Two all-to-alls a layer: one for queries, keys and values together, one for the output (arXiv 2309.14509). Buffers are
laid out token first, so shards of any length join without a copy.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ditmesh.runtime.collectives import all_to_all, shard_sizes
from ditmesh.runtime.mesh import Axis

# B batch, S sequence (s local), H heads (h local), D head dim


def scatter_heads(tensors: Sequence[Tensor], lengths: Sequence[int], mesh: Axis) -> Tensor:
    """n tensors [B, s, H, D] -> [S, B, n, h, D], in one all-to-all.

    ``lengths[i]`` is rank i's number of tokens; S is their sum. Heads are shared out as evenly as they can be.
    """
    B, s, H, D = tensors[0].shape
    n, rank = len(tensors), mesh.get_local_rank()
    heads = shard_sizes(H, mesh.size())
    stacked = torch.stack([x.transpose(0, 1) for x in tensors], dim=2)
    sent = torch.cat([part.reshape(-1) for part in stacked.split(heads, dim=3)])
    received = all_to_all(
        sent,
        send=[s * B * n * h * D for h in heads],
        receive=[length * B * n * heads[rank] * D for length in lengths],
        mesh=mesh,
    )
    return received.view(sum(lengths), B, n, heads[rank], D)


def gather_heads(x_SBhD: Tensor, lengths: Sequence[int], heads: int, mesh: Axis) -> Tensor:
    """[S, B, h, D] -> [B, s, H, D], in one all-to-all; the inverse of ``scatter_heads`` for one tensor of H heads."""
    _, B, h, D = x_SBhD.shape
    s = lengths[mesh.get_local_rank()]
    shares = shard_sizes(heads, mesh.size())
    received = all_to_all(
        x_SBhD.contiguous().view(-1),
        send=[length * B * h * D for length in lengths],
        receive=[s * B * share * D for share in shares],
        mesh=mesh,
    )
    parts = received.split([s * B * share * D for share in shares])
    joined = torch.cat([part.view(s, B, share, D) for part, share in zip(parts, shares, strict=True)], dim=2)
    return joined.transpose(0, 1)
