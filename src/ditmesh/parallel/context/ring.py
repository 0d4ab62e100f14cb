"""Ring: queries stay, keys and values travel round the ranks while each attends to the part it holds.

Parts are merged by their log-sum-exp in float32 (arXiv 2310.01889); a transfer is posted before the attention it
overlaps with.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ditmesh.runtime.collectives import Rotation, never_compiled
from ditmesh.runtime.mesh import Axis
from ditmesh.upstream.kernels import Kernel, accumulator

# B batch, S sequence, H heads, D head dim


def merge(out: Tensor, lse: Tensor, part_out: Tensor, part_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Attention over the union of two sets of keys, from the attention [B, H, S, D] and log-sum-exp over each."""
    share = torch.sigmoid(part_lse - lse).unsqueeze(-1)
    return torch.lerp(out, part_out.to(out.dtype), share), torch.logaddexp(lse, part_lse)


@never_compiled
def ring_attention(
    q: Tensor,
    kv_SB2HD: Tensor,
    lengths: Sequence[int],
    mask: Tensor | None,
    scale: float | None,
    kernel: Kernel,
    mesh: Axis,
) -> Tensor:
    """Attention of this rank's queries over every rank's keys and values.

    Args:
        q: [B, H, S_q, D], this rank's queries.
        kv_SB2HD: [S, B, 2, H, D], this rank's keys and values; ``lengths[i]`` is S on rank i of the ring.
        mask: additive, [B, 1, S_q or 1, sum of lengths], for the keys of all ranks in ring order.
        scale: the softmax scale, 1 / sqrt(D) if None.
        kernel: one rank's attention.
        mesh: the ring.

    Returns:
        [B, H, S_q, D], in q's dtype.
    """
    rank, degree = mesh.get_local_rank(), mesh.size()
    masks = [None] * degree if mask is None else list(mask.split(list(lengths), dim=-1))
    held, out, lse = kv_SB2HD.contiguous(), None, None
    for hop in range(degree):
        source = (rank - hop) % degree
        rotation = None
        if hop < degree - 1:
            coming = held.new_empty((lengths[(source - 1) % degree], *held.shape[1:]))
            rotation = Rotation(held, coming, mesh)
        if q.numel() and held.numel():
            k, v = held.permute(2, 1, 3, 0, 4)
            part, part_lse = kernel(q, k, v, masks[source], scale)
            if out is None or lse is None:
                out, lse = part.to(accumulator(q.dtype)), part_lse
            else:
                out, lse = merge(out, lse, part, part_lse)
        if rotation is not None:
            held = rotation.wait()
    return q if out is None else out.to(q.dtype)
