"""Quantize the weights of linears as the quantizers of diffusers do, one weight at a time."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from ditmesh.upstream.quantized import seat
from ditmesh.upstream.unread import read


def quantize_linears(model: nn.Module, kind: str) -> None:
    """Quantize every linear of a model, in place, but those that its class wants in float32 and its last one.

    Linears of adapters stay as they are, and only the one they adapt is quantized.
    """
    for name, linear in list(_linears(model)):
        place = host(linear, kind)
        if place is not linear:
            model.set_submodule(name, place)
        seat(place, quantized(linear.weight.detach(), kind))


def host(linear: nn.Linear, kind: str) -> nn.Linear:
    """The linear that runs a weight of this kind: with the same bias, and a weight to come. It may be the same."""
    if kind != "nf4":
        return linear
    from bitsandbytes.nn.modules import Linear4bit

    made = Linear4bit(
        linear.in_features, linear.out_features, False, linear.weight.dtype, False, quant_type="nf4", device="meta"
    )
    made.bias = linear.bias
    return made.train(linear.training)


def quantized(weight: Tensor, kind: str) -> Tensor:
    """A plain weight of a linear, quantized where it is."""
    return _QUANTIZERS[kind](weight)


def _linears(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    kept: set[str] = set(getattr(model, "_keep_in_fp32_modules", None) or ())
    last = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    adapted = [f"{name}." for name, module in model.named_modules() if "base_layer" in module._modules]
    for name, module in model.named_modules():
        inside = [layer for layer in adapted if name.startswith(layer)]
        adapts = any(not name.startswith(f"{layer}base_layer") for layer in inside)
        if type(module) is nn.Linear and module is not last and not adapts and not kept & set(name.split(".")):
            yield name, module


def _by_torchao(config: Callable[[], Any]) -> Callable[[Tensor], Tensor]:
    def quantize(weight: Tensor) -> Tensor:
        from torchao.quantization import quantize_

        linear = nn.Linear(1, 1, bias=False, device="meta")
        linear.weight = nn.Parameter(weight, requires_grad=False)
        quantize_(linear, config())
        return linear.weight

    return quantize


def _int8() -> Any:
    from torchao.quantization import Int8WeightOnlyConfig

    return Int8WeightOnlyConfig()


def _int8_dynamic() -> Any:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig

    return Int8DynamicActivationInt8WeightConfig()


def _fp8() -> Any:
    from torchao.quantization import Float8WeightOnlyConfig

    return Float8WeightOnlyConfig()


def _nf4(weight: Tensor) -> Tensor:
    from bitsandbytes.nn.modules import Params4bit

    kind: Any = Params4bit
    return kind(read(weight), requires_grad=False, compress_statistics=False, quant_type="nf4").to(weight.device)


_QUANTIZERS: dict[str, Callable[[Tensor], Tensor]] = {
    "int8": _by_torchao(_int8),
    "int8_dynamic": _by_torchao(_int8_dynamic),
    "fp8": _by_torchao(_fp8),
    "nf4": _nf4,
}
