"""Which tokens of a shard are this rank's own: a rank without a token of a stream holds a copy of its first instead."""

from collections.abc import Callable
from itertools import accumulate

import torch
from torch import Tensor, nn

from ditmesh.upstream.dispatcher import layer_of
from ditmesh.upstream.modules import held


def own_tokens(block: nn.Module, several: bool) -> Callable[[Tensor], Tensor]:
    """What takes the copies out of a shard [..., s, C] of the main stream of ``block``.

    The streams its attention joins say what the shard is made of: all of them, if the block has but one stream of
    tokens; else (``several``) of the image, and of what the model lays beside it.
    """
    layers = [layer_of(module.processor) for module in block.modules() if held(module, "processor") is not None]
    layer = next((layer for layer in layers if layer is not None and layer.queries), None)
    if layer is None:
        return lambda x: x

    def own(x: Tensor) -> Tensor:
        streams = layer.present().queries
        held = layer.sequence.held(streams)
        if all(mine for _, mine in held):
            return x
        held = held[streams.index("image") if several and "image" in streams else 0 :]
        ends = list(accumulate(tokens for tokens, _ in held))
        assert x.shape[-2] in ends, f"{x.shape[-2]} tokens are no run of {held}"
        held = held[: ends.index(x.shape[-2]) + 1]
        parts = x.split([tokens for tokens, _ in held], dim=-2)
        return torch.cat([part if mine else part[..., :0, :] for part, (_, mine) in zip(parts, held, strict=True)], -2)

    return own
