"""Tensor parallelism: shard linears over the mesh axis ``tp``, as plain tensors.

No DTensor: what is left on a rank is an ordinary ``nn.Linear`` of its shard, with nothing to unwrap for compile, LoRA
or quantization. Column shards need no communication, row shards one all-reduce (arXiv 1909.08053).
"""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from diffusers.models.activations import GEGLU, SwiGLU
from diffusers.models.normalization import RMSNorm
from torch import Tensor, nn

from ditmesh.parallel.tensor.linears import check_cut, cut_columns, cut_rows, gather_outputs, keep_part, sum_outputs
from ditmesh.runtime.collectives import all_reduce, shard
from ditmesh.runtime.mesh import Axis
from ditmesh.runtime.shards import Shard, even_parts, fits
from ditmesh.spec import Fused, Heads, ModelSpec, PerHead, Sharded, Style
from ditmesh.upstream.lora import Adapters, Place, ShardedLinear, check_adapter
from ditmesh.upstream.modules import (
    argument_names,
    bind,
    check_plain,
    check_present,
    expand,
    held,
    override,
    parameter,
    without_adapter,
)
from ditmesh.upstream.quantized import check_quantized, grain_of, is_linear, settled
from ditmesh.upstream.saving import keep_share
from ditmesh.upstream.trees import map_tensors


class NormAcrossHeads(nn.RMSNorm):
    """RMSNorm over a width that is sharded: only the mean square crosses ranks, in float32."""

    def __init__(self, norm: Any, shard: Shard):
        super().__init__(shard.length, norm.eps, elementwise_affine=False)
        self.weight = None if norm.weight is None else parameter(shard.cut(norm.weight), norm.weight)
        self.width, self.mesh = shard.length, shard.mesh

    def forward(self, x: Tensor) -> Tensor:
        dtype = x.dtype
        x = x.to(torch.promote_types(dtype, torch.float32))
        mean_square = all_reduce(x.square().sum(-1, keepdim=True), self.mesh) / self.width
        eps = torch.finfo(x.dtype).eps if self.eps is None else self.eps
        x = x * torch.rsqrt(mean_square + eps)
        return (x if self.weight is None else x * self.weight).to(dtype)


def apply_tensor_parallel(model: nn.Module, spec: ModelSpec, mesh: Axis, undo: ExitStack) -> Adapters:
    """Shard the model over a one-dimensional mesh as its sheet's ``tp_plan`` says, in place.

    Args:
        model: the transformer ``spec`` describes; its weights are replaced by this rank's shards.
        spec: its fact sheet.
        mesh: the ranks of one tensor-parallel group.
        undo: takes what puts the whole weights back; every rank of the group has to close it.

    Returns:
        What lets LoRA weights be loaded into it.

    Raises:
        ValueError: a name the sheet has wrong, a linear of a block it does not speak of, or one that cannot be sharded
            so; nothing has been changed then.
    """
    check_present(model)
    config: Any = model.config
    width = spec.count_heads(config) * spec.head_width(config)
    steps: list[tuple[str, Any, Style, tuple[int, ...]]] = [
        (name, module, style, _check(f"{spec.title}: {name}", module, style, width, mesh.size()))
        for pattern, style in spec.tp_plan.items()
        for name, module in expand(model, pattern)
    ]
    for name, module, style, parts in steps:
        _check_weights(f"{spec.title}: {name}", module, style, parts, mesh)
    _check_complete(model, spec, {name for name, *_ in steps})
    _check_gated(model, spec, [(name, style) for name, _, style, _ in steps])
    linears = []
    for name, module, style, parts in steps:
        style = style.style if isinstance(style, Fused) else style
        if isinstance(style, PerHead):
            _share_tensors(module, style, mesh, undo)
        elif isinstance(style, Sharded):
            _shard_parameters(module, style, mesh, undo)
        elif style == "heads" or isinstance(style, Heads):
            _share_heads(module, _counts(style), mesh, undo)
        elif style == "norm_across_heads":
            _replace_norm(model, name, module, Shard.even(0, parts, mesh), undo)
        else:
            shard = Shard.even(1 if style == "rowwise" else 0, parts, mesh)
            linears.append(_shard_linear(model, name, style, shard, undo))
    return Adapters(model, linears, undo)


def _check(name: str, module: Any, style: Style, width: int, degree: int) -> tuple[int, ...]:
    """The parts a module's sharded width is packed of, or a ValueError if it cannot be sharded as the sheet says."""
    if isinstance(style, PerHead | Sharded):
        return ()
    if style == "heads" or isinstance(style, Heads):
        _check_heads(name, module, _counts(style), degree)
        return ()
    if style == "norm_across_heads":
        if type(module) is nn.RMSNorm:
            return tuple(module.normalized_shape)
        if type(module) is RMSNorm and module.bias is None:  # diffusers' own
            return tuple(module.dim)
        raise ValueError(f"{name} is a {type(module).__name__}, and only an RMSNorm can be computed across heads.")
    if module is not without_adapter(module):
        check_adapter(name, module)
        module = without_adapter(module)
    if not is_linear(module):
        raise ValueError(
            f"{name} is a {type(module).__name__}, which tensor parallelism cannot shard; leave quantization off, or "
            f"use ulysses_size or ring_size."
        )
    fused = style if isinstance(style, Fused) else Fused(style, ("rest",))
    if fused.style not in ("colwise", "colwise_gather_output", "rowwise"):
        raise ValueError(f"{name}: the fact sheet asks for the unknown style {fused.style!r}.")
    total = module.in_features if fused.style == "rowwise" else module.out_features
    rest = (total - width * fused.parts.count("heads")) // max(fused.parts.count("rest"), 1)
    parts = tuple(width if part == "heads" else rest for part in fused.parts)
    assert sum(parts) == total, f"{name}: {fused.parts} do not add up to {total}"
    if len(set(fused.parts)) > 1 and any(part % degree for part in parts):
        # The model finds the parts in a shard by their proportions.
        raise ValueError(f"tp_size={degree} does not divide the packed parts {parts} of {name}; use a size that does.")
    return parts


def _check_weights(title: str, module: Any, style: Style, parts: tuple[int, ...], mesh: Axis) -> None:
    """Refuse what cannot be cut: quantized weights of something else than a linear, and blocks of them."""
    linear: Any = without_adapter(module)
    if not is_linear(linear):
        check_plain(title, module, "tp_size", "use ulysses_size or ring_size.")
        return
    check_quantized(title, linear, "tp_size", "use ulysses_size or ring_size.")
    rowwise = (style.style if isinstance(style, Fused) else style) == "rowwise"
    grain = grain_of(settled(linear).weight, int(rowwise))
    sizes = [f"{degree}" for degree in range(2, 9) if fits(even_parts(parts, degree), grain)]
    instead = [f"tp_size={' or '.join(sizes)}"] * bool(sizes) + ["ulysses_size or ring_size"]
    check_cut(title, linear, Shard.even(int(rowwise), parts, mesh), f"use {', or '.join(instead)}.")


def _check_complete(model: nn.Module, spec: ModelSpec, planned: set[str]) -> None:
    replicated = {name for pattern in spec.replicated for name, _ in expand(model, pattern)}
    for blocks in spec.blocks:
        for name in _linears(model.get_submodule(blocks.path), blocks.path):
            if name not in planned | replicated:
                raise ValueError(
                    f"{spec.title}: the fact sheet does not say how to shard {name}, a linear of a block; "
                    f"undo what added it (fused projections, an adapter) before enable_cache."
                )


def _linears(module: nn.Module, name: str) -> Iterator[str]:
    """The names of the linears in a module; what adapts one is not another."""
    if isinstance(without_adapter(module), nn.Linear):
        yield name
        return
    for child, inner in module.named_children():
        yield from _linears(inner, f"{name}.{child}")


def _check_heads(name: str, module: nn.Module, counts: tuple[str, ...], degree: int) -> None:
    for count in counts:
        if held(module, count) % degree:
            raise ValueError(f"tp_size={degree} does not divide the {held(module, count)} {count} of {name}.")
    if any(held(module, counts[0]) in parameter.shape for parameter in module.parameters(recurse=False)):
        raise ValueError(f"{name} has a parameter for each head, which tp_size would have to share out; use 1.")


def _check_gated(model: nn.Module, spec: ModelSpec, plan: list[tuple[str, Style]]) -> None:
    for name, style in plan:
        parent = model.get_submodule(name.rpartition(".")[0])
        if isinstance(parent, GEGLU | SwiGLU) != (isinstance(style, Fused) and name.endswith(".net.0.proj")):
            raise ValueError(
                f"{spec.title}: {name} of a {type(parent).__name__} is not what the fact sheet describes, so tp_size "
                f"would compute something else; use ulysses_size or ring_size."
            )


def _counts(style: Style) -> tuple[str, ...]:
    return style.counts if isinstance(style, Heads) else ("heads",)


def _share_tensors(module: nn.Module, fact: PerHead, mesh: Axis, undo: ExitStack) -> None:
    names = argument_names(module)

    def cut(x: Tensor) -> Tensor:
        return shard(x, fact.dims[x.ndim], mesh)

    def share_output(module: nn.Module, args: tuple[object, ...], output: object) -> Any:
        return map_tensors(cut, output)

    def share_argument(
        module: nn.Module, args: tuple[object, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        bound = bind(names, args, kwargs)
        return (), bound | {fact.argument: map_tensors(cut, bound.get(fact.argument))}  # views: writes reach the caller

    if fact.argument:
        undo.callback(module.register_forward_pre_hook(share_argument, with_kwargs=True).remove)
    else:
        undo.callback(module.register_forward_hook(share_output).remove)


def _share_heads(attention: nn.Module, counts: tuple[str, ...], mesh: Axis, undo: ExitStack) -> None:
    for count in counts:
        override(attention, count, held(attention, count) // mesh.size(), undo)


def _shard_parameters(module: nn.Module, fact: Sharded, mesh: Axis, undo: ExitStack) -> None:
    for name, (dim, parts) in fact.parameters.items():
        shard = Shard.even(dim, (module.get_parameter(name).shape[dim] // parts,) * parts, mesh)
        keep_part(module, name, shard.cut, shard.restore, undo)
    undo.callback(module.register_forward_hook(sum_outputs(mesh)).remove)


def _replace_norm(model: nn.Module, name: str, norm: Any, shard: Shard, undo: ExitStack) -> None:
    sharded = NormAcrossHeads(norm, shard)
    keep_share(sharded, undo, weight=shard.restore)
    model.set_submodule(name, sharded)

    @undo.callback
    def restore() -> None:
        if sharded.weight is not None:
            norm.weight = parameter(shard.restore(sharded.weight), norm.weight)
        model.set_submodule(name, norm)


def _shard_linear(model: nn.Module, name: str, style: Any, shard: Shard, undo: ExitStack) -> ShardedLinear:
    """Cut a linear and the adapters around it, and put the outputs of all ranks together where the last one ends."""
    linear: Any = without_adapter(model.get_submodule(name))
    if style == "rowwise":
        cut_rows(linear, shard, undo)
    else:
        cut_columns(linear, shard, undo)
    hook = {"rowwise": sum_outputs(shard.mesh), "colwise_gather_output": gather_outputs(shard)}.get(style)
    place = Place(model, name, lambda outer: [outer.register_forward_hook(hook)] if hook else [])
    return ShardedLinear(place, name, shard)
