"""Follow the adapters that peft puts around linears, so that they are spread over the ranks as the linears are.

Only the outermost module sees all that a linear and its adapters make, so hooks belong there: a sum over ranks is then
one sum for all of them. Adapters may be loaded and unloaded at any time, so each forward looks where that is by now.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from diffusers.loaders.lora_base import LoraBaseMixin
from diffusers.loaders.peft import PeftAdapterMixin
from diffusers.utils.import_utils import is_peft_available
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ditmesh.runtime.collectives import all_reduce, never_compiled
from ditmesh.runtime.shards import Shard
from ditmesh.upstream.modules import override, parameter, without_adapter
from ditmesh.upstream.quantized import settled, shape_of, take_apart
from ditmesh.upstream.saving import SHARES

# Around a plain linear, and around quantized ones: all add what lora_A and lora_B make to what the linear does.
LORA = {
    "peft.tuners.lora.layer.Linear",
    "peft.tuners.lora.torchao.TorchaoLoraLinear",
    "peft.tuners.lora.bnb.Linear4bit",
    "peft.tuners.lora.bnb.Linear8bitLt",
}
_INSTEAD = "fuse it (fuse_lora, then unload_lora_weights) before enable_cache, or use ulysses_size or ring_size."


class Place:
    """Where a module stands in a model, by itself or inside an adapter layer, and hooks that stay on the outermost."""

    def __init__(self, model: nn.Module, name: str, attach: Callable[[nn.Module], list[RemovableHandle]]):
        parent, _, self._child = name.rpartition(".")
        self._parent, self._attach = model.get_submodule(parent), attach
        self._handles: list[RemovableHandle] = []
        self._hooked: nn.Module | None = None
        self.settle()

    @property
    def outer(self) -> Any:
        return self._parent._modules[self._child]

    def settle(self) -> None:
        """Move the hooks if an adapter layer came or went."""
        if self._hooked is not self.outer:
            self.release()
            self._hooked, self._handles = self.outer, self._attach(self.outer)

    def put(self, module: nn.Module) -> None:
        self._parent._modules[self._child] = module

    def release(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._hooked, self._handles = None, []


def follow(model: nn.Module, places: "list[Place] | list[ShardedLinear]", undo: ExitStack) -> None:
    """Settle places before each forward of the model, and free them in the end."""

    def settle(module: nn.Module, args: tuple[object, ...]) -> None:
        for place in places:
            place.settle()

    hook = never_compiled(settle)
    for place in places:
        undo.callback(place.release)
    undo.callback(model.register_forward_pre_hook(hook).remove)


class ShardedLinear:
    """A linear of which each rank keeps a shard, and the LoRA adapters around it, cut alike.

    With the outputs cut, ``lora_B`` is cut by rows. With the inputs cut, ``lora_A`` is cut by columns, and one rank
    alone keeps ``lora_B``'s bias, since the outputs of all ranks are added up.
    """

    def __init__(self, place: Place, name: str, shard: Shard):
        self._place, self._name, self._shard = place, name, shard
        self._linear: Any = without_adapter(place.outer)
        self._cut: dict[str, nn.Linear] = {}  # by adapter: the part of it that is cut
        self._own: nn.Parameter | None = None  # while the whole shape is shown
        self.settle()

    def settle(self) -> None:
        """Follow what was loaded or unloaded since; new adapters are cut.

        Raises:
            ValueError: the linear is another one now, or an adapter cannot be cut exactly.
        """
        self._place.settle()
        layer = self._place.outer
        if layer is self._linear:
            self._cut = {}
            return
        self.check(layer)
        parts = self._parts(layer)
        for adapter, part in parts.items():
            if self._cut.get(adapter) is not part:
                part.weight = parameter(self._shard.cut(part.weight), part.weight)
                vars(part)[SHARES] = {"weight": self._shard.restore}
                self._leave_bias(layer.lora_B[adapter])
        self._cut = parts

    def check(self, layer: Any) -> None:
        """Refuse what cannot be cut exactly; nothing is changed."""
        if without_adapter(layer) is not self._linear:
            raise ValueError(
                f"{self._name} was replaced by a {type(layer).__name__} after enable_cache, which spreads it over "
                f"ranks no longer; call disable_cache, replace it, and enable again (load LoRA weights by the pipeline "
                f"that was enabled)."
            )
        check_adapter(self._name, layer)
        for adapter, part in self._parts(layer).items():
            dropout, length = layer.lora_dropout[adapter], part.weight.shape[self._shard.dim]
            if isinstance(dropout, nn.Dropout) and dropout.p and dropout.training and self._cut.get(adapter) is part:
                raise ValueError(
                    f"adapter {adapter!r} of {self._name} drops inputs at random (lora_dropout={dropout.p}), each rank "
                    f"others; call eval() on the transformer, or {_INSTEAD}"
                )
            if self._cut.get(adapter) is not part and length != self._shard.length:
                raise ValueError(
                    f"adapter {adapter!r} of {self._name} has a width of {length} where the linear has "
                    f"{self._shard.length}; load it by load_lora_weights, or before enable_cache."
                )

    def _parts(self, layer: Any) -> dict[str, nn.Linear]:
        return dict((layer.lora_B if self._shard.dim == 0 else layer.lora_A).items())

    def _leave_bias(self, last: nn.Linear) -> None:
        if last.bias is None:
            return
        vars(last).setdefault(SHARES, {})["bias"] = self._whole_bias
        if self._shard.dim == 0:
            last.bias = parameter(self._shard.cut(last.bias), last.bias)
        elif self._shard.mesh.get_local_rank() > 0:
            last.bias = parameter(torch.zeros_like(last.bias), last.bias)

    def _whole_bias(self, bias: Tensor) -> Tensor:
        return self._shard.restore(bias) if self._shard.dim == 0 else all_reduce(bias.clone(), self._shard.mesh)

    def restore(self) -> None:
        """Make the adapters whole that are still there, and put the linear back if another took its place."""
        layer = self._place.outer
        if without_adapter(layer) is not self._linear:
            self._place.put(self._linear)
            return
        for adapter, part in self._cut.items() if layer is not self._linear else []:
            if self._parts(layer).get(adapter) is not part:
                continue
            part.weight = parameter(self._shard.restore(part.weight), part.weight)
            last = layer.lora_B[adapter]
            if last.bias is not None:
                last.bias = parameter(self._whole_bias(last.bias), last.bias)
            for module in (part, last):
                vars(module).pop(SHARES, None)
        self._cut = {}

    def release(self) -> None:
        self._place.release()

    def show_whole_shape(self, weight: bool) -> None:
        """Look as the whole linear to a loader: to peft by its features, to others by its weight (which takes none)."""
        linear, features = self._linear, list(shape_of(self._linear.weight))
        features[self._shard.dim] = self._shard.length
        linear.out_features, linear.in_features = features
        if weight and self._own is None:
            self._own = linear.weight
            nothing = torch.zeros((), dtype=linear.weight.dtype, device=linear.weight.device)
            linear.weight = nn.Parameter(nothing.expand(features), requires_grad=False)

    def show_own_shape(self) -> None:
        """Look as the shard that is here."""
        if self._own is not None:
            self._linear.weight, self._own = self._own, None
        self._linear.out_features, self._linear.in_features = shape_of(self._linear.weight)

    def check_fuses(self) -> None:
        """Refuse to change a share of a quantized weight, which would get scales of its own."""
        if take_apart(settled(self._linear).weight) is not None:
            raise ValueError(
                f"{self._name} is quantized, and each rank would quantize its share of the fused weights by itself; "
                f"fuse before enable_cache, or keep the LoRA weights beside."
            )


def check_adapter(name: str, layer: Any) -> None:
    """Refuse an adapter layer that is not plain LoRA around a linear.

    Raises:
        ValueError: another kind of adapter, a variant of LoRA such as DoRA, or a base that is no linear.
    """
    kind = f"{type(layer).__module__}.{type(layer).__qualname__}"
    if kind not in LORA:
        raise ValueError(f"{name} is adapted by a {kind}, which tp_size cannot shard, only LoRA; {_INSTEAD}")
    for adapter, variant in layer.lora_variant.items():
        raise ValueError(
            f"adapter {adapter!r} of {name} is a {type(variant).__name__}, which tp_size cannot shard, only plain "
            f"LoRA; {_INSTEAD}"
        )


def is_dora(adapter: Any) -> bool:
    """Whether weights, or a config, are of an adapter that is worked out of the weights that it adapts."""
    if isinstance(adapter, Mapping):
        return any("magnitude" in key or "dora_scale" in key for key in adapter)
    if not is_peft_available():
        return False
    from peft import LoraConfig  # an extra: only who loads adapters has it

    return isinstance(adapter, LoraConfig) and adapter.use_dora


class Adapters:
    """Lets a sharded transformer, and a pipeline around it, load and fuse LoRA weights as a whole one does."""

    def __init__(self, model: nn.Module, linears: list[ShardedLinear], undo: ExitStack):
        self._linears = linears
        for linear in linears:
            undo.callback(linear.restore)
        follow(model, linears, undo)
        if isinstance(model, PeftAdapterMixin):
            override(model, "load_lora_adapter", self._loads(model), undo)
            override(model, "fuse_lora", self._fuses(model.fuse_lora), undo)

    def around(self, pipe: object, undo: ExitStack) -> None:
        """Show the pipeline's own loader, which may compare shapes, the whole ones."""
        if not isinstance(pipe, LoraBaseMixin):
            return
        load: Any = pipe.load_lora_weights

        def load_lora_weights(*args: Any, **kwargs: Any) -> Any:
            for linear in self._linears:
                linear.show_whole_shape(weight=True)
            try:
                return load(*args, **kwargs)
            finally:
                self._show_own_shapes()

        override(pipe, "load_lora_weights", load_lora_weights, undo)

    def _loads(self, model: Any) -> Callable[..., Any]:
        load = model.load_lora_adapter

        def load_lora_adapter(weights: Any, *args: Any, **kwargs: Any) -> Any:
            self._show_own_shapes()
            if kwargs.get("hotswap"):
                raise ValueError(f"hotswap=True does not work on a transformer sharded by tp_size; {_INSTEAD}")
            if is_dora(weights):
                raise ValueError(f"these are DoRA weights, which tp_size cannot shard, only plain LoRA; {_INSTEAD}")
            before = _adapters(model)
            for linear in self._linears:
                linear.show_whole_shape(weight=False)
            try:
                result = load(weights, *args, **kwargs)
            finally:
                self._show_own_shapes()
            try:
                self._settle()
            except ValueError:
                if before:
                    model.delete_adapters([adapter for adapter in _adapters(model) if adapter not in before])
                else:
                    model.unload_lora()
                raise
            return result

        return load_lora_adapter

    def _fuses(self, fuse: Callable[..., Any]) -> Callable[..., Any]:
        def fuse_lora(*args: Any, **kwargs: Any) -> Any:
            self._settle()
            for linear in self._linears:
                linear.check_fuses()
            return fuse(*args, **kwargs)

        return fuse_lora

    def _settle(self) -> None:
        for linear in self._linears:
            linear.settle()

    def _show_own_shapes(self) -> None:
        for linear in self._linears:
            linear.show_own_shape()


def _adapters(model: nn.Module) -> list[str]:
    return list(vars(model).get("peft_config", {}))
