"""Context parallelism: cut the sequences where the sheet says, attend across ranks, gather the output."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.outputs import BaseOutput
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ditmesh.parallel.context.attention import attention as across_ranks
from ditmesh.parallel.context.sequence import LayerContext, ShardedSequence
from ditmesh.runtime.collectives import never_compiled
from ditmesh.spec import Attention, Count, Cut, Gather, Length, ModelSpec, Refuse, Split
from ditmesh.upstream.dispatcher import (
    check_backend,
    follow_backend,
    kernel_of,
    layer_of,
    local_backend,
    mesh_backend,
    reroute,
)
from ditmesh.upstream.lora import Place, follow
from ditmesh.upstream.modules import argument_names, bind, expand, held, without_adapter

Layers = list[tuple[Any, LayerContext, Attention]]


def apply_context_parallel(
    model: nn.Module, spec: ModelSpec, sequence: ShardedSequence, kernel: str | None, undo: ExitStack
) -> None:
    """Cut the model's sequences into shards, in place.

    Args:
        model: the transformer ``spec`` describes.
        spec: its fact sheet.
        sequence: what cuts them: over the axes ``ring`` and ``ulysses`` of a mesh, or in time.
        kernel: the attention backend of one rank; None keeps each layer's own.
        undo: takes what takes each change back.

    Raises:
        ValueError: an attention layer the sheet does not cover, a name it has wrong, or a kernel that cannot do this.
    """
    layers = _attention_layers(model, spec, sequence)
    routes = _route(layers, sequence, kernel)
    undo.callback(routes.close)
    if isinstance(model, ModelMixin):
        follow_backend(
            model, lambda name: _check_kernel(name, sequence), routes, partial(_route, layers, sequence), undo
        )
    across = [(attention, layer) for attention, layer, _ in layers if layer.queries]
    undo.callback(model.register_forward_pre_hook(_begin(across, sequence)).remove)
    places = []
    for pattern, entry in spec.cp_plan.items():
        for name, module in expand(model, pattern):
            plan: Mapping[str | int, Cut] = entry if isinstance(entry, Mapping) else {0: entry}
            attach = _changes_at(name or spec.transformer, module, plan, sequence)
            if isinstance(without_adapter(module), nn.Linear):  # which adapters may wrap or leave
                places.append(Place(model, name, attach))
            else:
                for handle in attach(module):
                    undo.callback(handle.remove)
    follow(model, places, undo)


def _check_kernel(name: str, sequence: ShardedSequence) -> None:
    check_backend(name, sequence.ring.size(), sequence.mesh.device_type)


def _route(layers: Layers, sequence: ShardedSequence, kernel: str | None = None) -> ExitStack:
    """Lead every layer across the ranks, with a kernel or each with its own; what is returned leads them back."""
    with ExitStack() as routes:
        for attention, layer, fact in layers:
            name = kernel or kernel_of(attention)
            if layer.queries:
                _check_kernel(name, sequence)
                routes.callback(reroute(attention, mesh_backend(name, across_ranks), layer, fact.names_backend))
            elif kernel:
                routes.callback(reroute(attention, local_backend(name), names_backend=fact.names_backend))
        return routes.pop_all()


def _attention_layers(model: nn.Module, spec: ModelSpec, sequence: ShardedSequence) -> Layers:
    """The model's attention modules with what each will know, or a ValueError if one is not mesh-aware."""
    layers: dict[str, tuple[Any, LayerContext, Attention]] = {}
    for pattern, fact in spec.attention.items():
        for name, module in expand(model, pattern):
            found, known = type(module.processor).__name__, fact.processors
            if found not in known:
                raise ValueError(
                    f"{spec.title}: {name} holds a {found}, and only {' or '.join(known)} is known to attend across "
                    f"ranks; take the adapter that set it off, or use tp_size alone."
                )
            keys = fact.streams if fact.keys is None else fact.keys
            layers[name] = (module, LayerContext(name, sequence, fact.streams, keys), fact)
    for name, module in model.named_modules():
        if held(module, "processor") is not None and name not in layers:
            raise ValueError(
                f"{spec.title}: the fact sheet does not cover the attention of {name}, so {sequence.why} would make a "
                f"wrong picture; use tp_size alone."
            )
    return list(layers.values())


def _begin(layers: list[tuple[Any, LayerContext]], sequence: ShardedSequence) -> Callable[..., None]:
    def begin(module: nn.Module, args: tuple[object, ...]) -> None:
        sequence.begin()
        for attention, layer in layers:
            if layer_of(attention.processor) is not layer:
                raise ValueError(
                    f"the processor of {layer.name} was replaced after enable_cache and would attend to this rank's "
                    f"tokens only; call disable_cache, replace it, and enable again."
                )

    return begin


def _changes_at(
    owner: str, module: nn.Module, plan: Mapping[str | int, Cut], sequence: ShardedSequence
) -> Callable[[nn.Module], list[RemovableHandle]]:
    """What makes a module cut or gather its named arguments and its numbered outputs."""
    inputs = {key.removesuffix("?"): cut for key, cut in plan.items() if isinstance(key, str)}
    outputs = {key: cut for key, cut in plan.items() if isinstance(key, int)}
    names = argument_names(module)
    for key in inputs:
        if key.partition(".")[0] not in names and f"{key}?" not in plan:
            raise ValueError(f"{owner} takes {', '.join(names)}, and the fact sheet's cp_plan cuts its {key!r}.")

    def change_inputs(
        module: nn.Module, args: tuple[object, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        bound = bind(names, args, kwargs)
        for key, cut in inputs.items():
            name, _, item = key.partition(".")
            if isinstance(cut, Refuse) and bound.get(name) is not None:
                raise ValueError(f"{owner} was given {key}, which {sequence.why} cannot honour: {cut.why}")
            if isinstance(cut, Split) and cut.least > 1:
                _check_least(owner, bound[name].shape[cut.dim], cut.least, sequence)
            if name in bound:
                bound[name] = _change_item(bound[name], item, cut, sequence)
        return (), bound

    def change_outputs(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, Tensor):
            return _change(output, outputs[0], sequence)
        values = vars(output).values() if isinstance(output, BaseOutput) else output
        changed = [_change(x, outputs[i], sequence) if i in outputs else x for i, x in enumerate(values)]
        return type(output)(*changed) if isinstance(output, BaseOutput) else type(output)(changed)

    before, after = never_compiled(change_inputs), never_compiled(change_outputs)

    def attach(module: nn.Module) -> list[RemovableHandle]:
        cuts = [module.register_forward_pre_hook(before, with_kwargs=True)] if inputs else []
        return [*cuts, *([module.register_forward_hook(after)] if outputs else [])]

    return attach


def _check_least(owner: str, tokens: int, least: int, sequence: ShardedSequence) -> None:
    if tokens < least * sequence.degree:
        raise ValueError(
            f"{owner} was given {tokens} tokens for {sequence.degree} ranks, and takes fewer than {least} on one for "
            f"something else; let {sequence.product} be at most {max(tokens // least, 1)}, or use tp_size."
        )


def _change_item(value: Any, item: str, cut: Cut, sequence: ShardedSequence) -> Any:
    """The value changed, or only its numbered item."""
    if not item or value is None:
        return _change(value, cut, sequence)
    return type(value)(_change(x, cut, sequence) if i == int(item) else x for i, x in enumerate(value))


def _change(value: object, cut: Cut, sequence: ShardedSequence) -> Any:
    """A tensor, or each in a list or dict, cut to this rank's shard or made whole; anything else stays as it is."""
    if isinstance(cut, Length):
        sequence.lengths[cut.stream] = cut.of(value)
        return value
    if isinstance(value, dict):
        return {key: _change(x, cut, sequence) for key, x in value.items()}
    if isinstance(value, list | tuple):
        cuts = cut if isinstance(cut, tuple) else [cut] * len(value)
        return type(value)(_change(x, cut, sequence) for x, cut in zip(value, cuts, strict=True))
    if isinstance(cut, Count):
        return sequence.count(value, cut.stream) if isinstance(value, int) else value
    if not isinstance(value, Tensor) or isinstance(cut, Refuse | tuple):
        return value
    if isinstance(cut, Gather):
        if isinstance(cut.stream, tuple):
            return sequence.gather_packed(value, cut.dim, cut.stream)
        return sequence.gather(value, cut.dim, cut.stream)
    if cut.ndim not in (None, value.ndim):
        return value
    if isinstance(cut.stream, tuple):
        return sequence.cut_packed(value, cut.dim, cut.stream)
    if cut.new:
        sequence.forget(cut.stream)
    if cut.mask:
        sequence.record_mask(cut.stream, value, cut.unseen)
    if cut.unseen:
        value = torch.ones_like(value)
    if cut.minor:
        parts = value.unflatten(cut.dim, (-1, sequence.lengths[cut.stream]))
        return sequence.cut(parts, cut.dim + 1, cut.stream).flatten(cut.dim, cut.dim + 1)
    return sequence.cut(value, cut.dim, cut.stream)
