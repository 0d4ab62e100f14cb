"""Every known kind of quantized weights, as its package makes it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gguf
import optimum.quanto as quanto
import torch
from bitsandbytes.nn.modules import Int8Params, Linear4bit, Linear8bitLt, Params4bit
from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter
from torch import Tensor, nn
from torchao.quantization import (
    Float8WeightOnlyConfig,
    Int8DynamicActivationInt8WeightConfig,
    Int8DynamicActivationIntxWeightConfig,
    Int8WeightOnlyConfig,
    IntxWeightOnlyConfig,
    PerGroup,
    PerTensor,
    quantize_,
)


@dataclass(frozen=True)
class Kind:
    """One kind of quantized weight.

    Attributes:
        make: a linear of this kind, from a plain one.
        dequantize: what its weight stands for.
        block: how many inputs are quantized together.
        rounds: its inputs are quantized when it is called.
        tokens: by a scale over all tokens.
    """

    make: Callable[[nn.Linear], nn.Linear]
    dequantize: Callable[[Any], Tensor] = lambda weight: weight.dequantize()
    block: int = 1
    rounds: bool = False
    tokens: bool = False


def torchao(config: Callable[[], Any]) -> Callable[[nn.Linear], nn.Linear]:
    def make(linear: nn.Linear) -> nn.Linear:
        quantize_(linear, config())
        return linear

    return make


def nf4(nested: bool) -> Callable[[nn.Linear], nn.Linear]:
    def make(linear: nn.Linear) -> nn.Linear:
        new: Any = Linear4bit(
            linear.in_features, linear.out_features, False, linear.weight.dtype, nested, "nf4", device="meta"
        )
        new.weight = Params4bit(linear.weight.data, False, compress_statistics=nested, quant_type="nf4").to("cpu")
        new.support_avx512bf16_for_cpu = False  # it would round scales to bfloat16, on some CPUs
        return new

    return make


def llm_int8(threshold: float) -> Callable[[nn.Linear], nn.Linear]:
    def make(linear: nn.Linear) -> nn.Linear:
        new: Any = Linear8bitLt(linear.in_features, linear.out_features, False, False, threshold, device="meta")
        new.weight = Int8Params(linear.weight.data, False).to("cpu")
        return new

    return make


def by_quanto(kind: Any) -> Callable[[nn.Linear], nn.Linear]:
    def make(linear: nn.Linear) -> nn.Linear:
        new: Any = quanto.QLinear.from_module(linear, weights=kind)
        new.freeze()
        new.weight.requires_grad_(False)
        return new

    return make


def from_file(name: str) -> Callable[[nn.Linear], nn.Linear]:
    def make(linear: nn.Linear) -> nn.Linear:
        kind = gguf.GGMLQuantizationType[name]
        new = GGUFLinear(linear.in_features, linear.out_features, False, compute_dtype=linear.weight.dtype)
        data = torch.tensor(gguf.quants.quantize(linear.weight.data.numpy(), kind))
        new.weight = GGUFParameter(data, quant_type=kind)
        return new

    return make


def of_nf4(weight: Any) -> Tensor:
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight.data, weight.quant_state)


def of_file(weight: Any) -> Tensor:
    from diffusers.quantizers.gguf.utils import dequantize_gguf_tensor

    return dequantize_gguf_tensor(weight)


KINDS = {
    "torchao int8": Kind(torchao(Int8WeightOnlyConfig)),
    "torchao int8, in groups of 32": Kind(torchao(lambda: Int8WeightOnlyConfig(granularity=PerGroup(32))), block=32),
    "torchao int8, inputs by token": Kind(torchao(Int8DynamicActivationInt8WeightConfig), rounds=True),
    "torchao int8, inputs by tensor": Kind(
        torchao(lambda: Int8DynamicActivationInt8WeightConfig(granularity=PerTensor())), rounds=True, tokens=True
    ),
    "torchao float8": Kind(torchao(Float8WeightOnlyConfig)),
    "torchao int4, in groups of 32": Kind(torchao(lambda: IntxWeightOnlyConfig(torch.int4, PerGroup(32))), block=32),
    "torchao int4, in groups of 32, inputs by token": Kind(
        torchao(lambda: Int8DynamicActivationIntxWeightConfig(torch.int4, PerGroup(32))), block=32, rounds=True
    ),
    "bitsandbytes nf4": Kind(nf4(nested=False), of_nf4, block=64),
    "bitsandbytes nf4, double quantization": Kind(nf4(nested=True), of_nf4, block=64),
    "bitsandbytes int8, `llm_int8_threshold=0.0`": Kind(
        llm_int8(0.0), lambda weight: weight.data * weight.SCB[:, None] / 127, rounds=True
    ),
    "bitsandbytes int8 with outliers": Kind(
        llm_int8(1.5), lambda weight: weight.data * weight.SCB[:, None] / 127, rounds=True, tokens=True
    ),
    "quanto int8": Kind(by_quanto(quanto.qint8)),
    "quanto float8": Kind(by_quanto(quanto.qfloat8)),
    "quanto int4, in groups of up to 128": Kind(by_quanto(quanto.qint4), block=128),
    "GGUF Q8_0": Kind(from_file("Q8_0"), of_file, block=32),
    "GGUF Q4_0": Kind(from_file("Q4_0"), of_file, block=32),
    "GGUF BF16": Kind(from_file("BF16"), of_file),
}


def quantize(model: nn.Module, kind: str) -> nn.Module:
    """Every linear of a model, in place, but those that T5 asks for the kind of its numbers."""
    for name, linear in list(model.named_modules()):
        if type(linear) is nn.Linear and not name.endswith(".wo"):
            bias, new = linear.bias, KINDS[kind].make(linear)
            new.bias = bias
            model.set_submodule(name, new)
    return model.eval()
