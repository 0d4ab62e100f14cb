"""What an autoencoder shared over ranks is for: each rank holds its part of the activations, and no more."""

from contextlib import ExitStack
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderKLWan
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ditmesh.parallel.vae.apply import apply_vae_parallel
from tests.parallel.vaes import KL, WAN, mesh
from tests.ranks import Ranks

# 8 x 8 (x 4) times as wide and high as their latents, and wide enough inside for three colours to weigh little.
VAES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "AutoencoderKL": (
        KL
        | {
            "block_out_channels": (32,) * 4,
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
        },
        (1, 4, 24, 4),
    ),
    "AutoencoderKLWan": (
        WAN | {"base_dim": 16, "dim_mult": [1, 1, 1, 1], "temperal_downsample": [False, True, True]},
        (1, 4, 2, 24, 4),
    ),
}


CLASSES = {cls.__name__: cls for cls in (AutoencoderKL, AutoencoderKLWan)}


class LiveBytes(TorchDispatchMode):
    """The most bytes that the storages made under it ever held at once, messages between ranks included."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        made = func(*args, **(kwargs or {}))
        for x in tree_leaves(made):
            if isinstance(x, Tensor) and not x.is_meta and x.untyped_storage()._cdata not in known:
                storage = x.untyped_storage()
                self._live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self._live = {key: (ref, size) for key, (ref, size) in self._live.items() if not ref.expired()}
        self.peak = max(self.peak, sum(size for _, size in self._live.values()))
        return made


def decode(name: str, ranks: int) -> tuple[int, int]:
    """Peak bytes on this rank while it decodes, and the bytes of the picture that all ranks end up with."""
    config, shape = VAES[name]
    vae = CLASSES[name](**config).eval()
    with ExitStack() as undo, torch.no_grad():
        if ranks > 1:
            apply_vae_parallel(vae, mesh(), undo)
        z = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        with LiveBytes() as live:
            picture = vae.decode(z).sample
    return live.peak, picture.untyped_storage().nbytes()


@pytest.mark.parametrize("name", VAES)
def test_a_rank_holds_its_share_of_all_that_decoding_needs(ranks: Ranks, name: str) -> None:
    """Beyond its share a rank holds the rows around its band, in a copy of what a convolution sees, and the picture."""
    alone, picture = decode(name, 1)
    assert alone > 20 * picture
    for world in (2, 4):
        for peak, whole in ranks.run(decode, world, name, world):
            assert whole == picture
            assert alone / world < peak < 1.25 * alone / world
