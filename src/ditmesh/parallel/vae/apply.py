"""VAE parallelism: every rank encodes and decodes its band of rows, exactly, whatever the autoencoder is made of.

The encoder's and the decoder's input is cut along the height and the output gathered; in between only what mixes rows
is touched: convolutions fetch the rows they reach beyond the band, group norms share their statistics, attention sees
all rows. The autoencoder's own forwards run untouched, so its slicing, its caches over time and its tiling (each
tile's rows are then shared over the ranks) work as they do on one device.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0, MochiVaeAttnProcessor2_0
from torch import Tensor, nn

from ditmesh.models.autoencoders import COMPOSED, POINTWISE, TOKENS_INSIDE
from ditmesh.parallel.vae.bands import AllRows, Bands, Halo, Rows, SharedGroupNorm, Window, first_of
from ditmesh.runtime.mesh import Axis
from ditmesh.upstream.modules import held, on_meta
from ditmesh.upstream.offload import stock_forwards

# Modules without modules in them that treat each position alone, or reach no further than a row of latents.
POINTWISE_LAYERS = (nn.Linear, nn.LayerNorm, nn.Identity, nn.Dropout, nn.SiLU, nn.ReLU, nn.ReLU6, nn.GELU, nn.Mish)

_INSTEAD = "leave this autoencoder out of extra_parallel_modules, and use its own tiling if memory is short."


class Half:
    """An encoder or a decoder: takes all rows, computes this rank's, and returns all rows again."""

    def __init__(self, rows: Rows, shrinks: bool):
        self._rows = rows
        self._grain = None if shrinks else 1  # rows of input that become one row of output

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        if self._grain is None:
            self._grain = _grain(module, args[0])
        bands = Bands.cut(args[0].shape[-2], self._rows.mesh.size(), self._grain)
        self._rows.begin(bands)
        return (self._rows.shard(args[0], bands), *args[1:]), kwargs

    def after(self, module: nn.Module, args: object, output: object) -> Any:
        return first_of(output, lambda x: self._rows.gather(x, self._rows.bands(x)))


class OwnQueries:
    """Lets this rank's queries attend to all rows: ``to_k`` and ``to_v`` gather the keys and values they make."""

    def __init__(self, rows: Rows):
        self._rows = rows
        self._sizes: list[int] = []

    def before(self, module: nn.Module, args: Any) -> None:
        """Take notice of how many tokens [B, S, C] each band's rows [B, C, H, W] become."""
        assert args[0].ndim == 4, "a block that makes tokens of rows itself belongs in TOKENS_INSIDE"
        if not _attends_by_rows(module):
            raise ValueError(
                "an attention processor of this autoencoder was replaced after enable_cache and would attend to this "
                "rank's rows only; call disable_cache, replace it, and enable again."
            )
        self._sizes = [rows * args[0].shape[-1] for rows in self._rows.bands(args[0]).sizes]

    def gather(self, module: nn.Module, args: object, output: Tensor) -> Tensor:
        return self._rows.gather_sizes(output, 1, self._sizes)


Part = nn.GroupNorm | Window | type[AllRows] | type[OwnQueries]


def apply_vae_parallel(vae: nn.Module, mesh: Axis, undo: ExitStack) -> None:
    """Share the encoding and decoding of an autoencoder over a one-dimensional mesh by rows, in place.

    Args:
        vae: an autoencoder of diffusers for pictures or video, with an ``encoder`` or a ``decoder``.
        mesh: the ranks of one replica; all of them have to call ``encode`` and ``decode`` with the same input.
        undo: takes what takes each change back.

    Raises:
        ValueError: a part of it mixes rows in a way that is not known here; nothing has been changed then.
    """
    if mesh.size() == 1:
        return
    title = type(vae).__name__
    halves = {name: module for name, module in vae.named_children() if name in ("encoder", "decoder")}
    if not halves:
        raise ValueError(f"{title} has neither an encoder nor a decoder to share by rows; leave it unparallelized.")
    parts = {name: list(_parts(half, f"{title}.{name}")) for name, half in halves.items()}
    for name, half in halves.items():
        rows = Rows(mesh)
        _hook(half, Half(rows, shrinks=name == "encoder"), undo)
        for path, module, part in parts[name]:
            if isinstance(part, Window):
                _hook(module, Halo(rows, part), undo)
            elif part is AllRows:
                _hook(module, AllRows(rows), undo)
            elif part is OwnQueries:
                _share_queries(module, OwnQueries(rows), undo)
            elif isinstance(part, nn.GroupNorm):
                path = path.removeprefix(f"{title}.")
                vae.set_submodule(path, SharedGroupNorm(part, rows))
                undo.callback(vae.set_submodule, path, part)


def _hook(module: nn.Module, change: Half | Halo | AllRows, undo: ExitStack) -> None:
    undo.callback(module.register_forward_pre_hook(change.before, with_kwargs=True).remove)
    undo.callback(module.register_forward_hook(change.after).remove)


def _share_queries(attention: Any, change: OwnQueries, undo: ExitStack) -> None:
    undo.callback(attention.register_forward_pre_hook(change.before).remove)
    for projection in (attention.to_k, attention.to_v):
        undo.callback(projection.register_forward_hook(change.gather).remove)


def _parts(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module, Part]]:
    """What has to be done to which module below ``module``, or a ValueError about the one that is not known."""
    children, kind = dict(module.named_children()), type(module).__name__
    if "per_channel_scale1" in dict(module.named_parameters(recurse=False)):
        raise ValueError(f"{path} adds random noise to every pixel, and ranks draw it apart; {_INSTEAD}")
    if isinstance(module, Attention) and isinstance(module.processor, MochiVaeAttnProcessor2_0):
        return  # each pixel attends to itself over time
    if _attends_by_rows(module):
        yield path, module, OwnQueries
        yield from _parts(children["group_norm"], f"{path}.group_norm")
    elif {"to_q", "to_qkv"} & set(children) or kind in TOKENS_INSIDE:
        yield path, module, AllRows
    elif isinstance(module, nn.GroupNorm):
        yield path, module, module
    elif isinstance(module, nn.Conv2d | nn.Conv3d):
        yield from _convolution(module, module, path)
    elif (wrapped := _wrapped_convolution(module)) is not None:
        yield from _convolution(module, wrapped, path)
    elif kind in COMPOSED:
        for name, child in children.items():
            yield from _parts(child, f"{path}.{name}")
    elif not _is_pointwise(module):
        raise ValueError(f"{path} is a {kind}, of which it is not known whether it mixes rows; {_INSTEAD}")


def _attends_by_rows(module: nn.Module) -> bool:
    """Whether a module makes queries of [B, C, H, W] and keys and values apart from them."""
    plain = isinstance(module, Attention) and type(module.processor) is AttnProcessor2_0
    return plain and isinstance(module.group_norm, nn.GroupNorm) and module.spatial_norm is None


def _is_pointwise(module: nn.Module) -> bool:
    if isinstance(module, nn.Upsample):
        return module.mode in ("nearest", "nearest-exact")
    if isinstance(module, nn.LayerNorm):
        return len(module.normalized_shape) == 1
    return isinstance(module, POINTWISE_LAYERS) or type(module).__name__ in POINTWISE


def _wrapped_convolution(module: nn.Module) -> nn.Conv2d | nn.Conv3d | None:
    """The convolution that all parameters of a module belong to, if the module pads for it."""
    inside = [child for child in module.children() if isinstance(child, nn.Conv2d | nn.Conv3d)]
    if len(inside) != 1 or len(list(module.parameters())) != len(list(inside[0].parameters())):
        return None
    whole, alone = _window(module, inside[0]), _window(inside[0], inside[0])
    pads = whole is not None and alone is not None and whole.before + whole.after > alone.before + alone.after
    return inside[0] if pads else None


def _convolution(module: nn.Module, conv: nn.Conv2d | nn.Conv3d, path: str) -> Iterator[tuple[str, nn.Module, Part]]:
    """A convolution that reaches over rows, together with the module that pads for it."""
    if conv.kernel_size[-2] == conv.stride[-2] == 1:
        return
    window = _window(module, conv)
    if "circular" in (conv.padding_mode, held(module, "pad_mode")):
        raise ValueError(f"{path} pads with the opposite edge, which no neighbour has; {_INSTEAD}")
    if window is None or window.before + window.after < window.kernel - window.stride:
        raise ValueError(f"{path} is a convolution padded elsewhere, where no halo can be given to it; {_INSTEAD}")
    yield path, module, window


def _window(module: nn.Module, conv: nn.Conv2d | nn.Conv3d, rows: int = 16) -> Window | None:
    """What a module does to rows if it is ``conv`` with padding, read off the rows it makes; None if it is more."""
    kernel, stride = conv.dilation[-2] * (conv.kernel_size[-2] - 1) + 1, conv.stride[-2]
    slack = []
    for height in range(rows, rows + stride):
        made = _rows_made(module, conv, height, rows)
        if made is None:
            return None
        slack.append((made - 1) * stride + kernel - height)
    padding = max(slack)  # of the heights tried, one leaves no row over
    if not 0 <= padding < kernel or min(slack) <= padding - stride:
        return None
    return Window(kernel, stride, padding // 2, padding - padding // 2)


def _rows_made(module: nn.Module, conv: nn.Conv2d | nn.Conv3d, height: int, width: int) -> int | None:
    for frames in ((), (9,)):  # a picture, or else a video
        shape = (1, conv.in_channels, *frames, height, width)
        try:
            made = on_meta(module, torch.float32)(torch.empty(shape, device="meta"))
        except (RuntimeError, ValueError, IndexError, TypeError):  # it takes another shape, or more than a tensor
            continue
        return (made[0] if isinstance(made, tuple) else made).shape[-2]
    return None


def _grain(encoder: nn.Module, x: Tensor, rows: int = 256) -> int:
    """How many rows of its input an encoder makes one of, found without computing."""
    probe = torch.empty((1, *x.shape[1:-2], rows, rows), dtype=x.dtype, device="meta")
    made = []
    with stock_forwards(encoder):  # what offloads weights would bring them in
        first_of(on_meta(encoder, x.dtype)(probe), lambda out: made.append(out.shape[-2]) or out)
    assert rows % made[0] == 0, f"{type(encoder).__name__} makes {made[0]} rows of {rows}"
    return rows // made[0]
