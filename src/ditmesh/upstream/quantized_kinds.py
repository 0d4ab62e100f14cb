"""The quantized weights that torchao, optimum-quanto, bitsandbytes and the GGUF files of diffusers put into linears."""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ditmesh.upstream.apart import SHARED, Apart, ratios

# torchao, of which all kinds have parts of their own names


def _torchao(weight: Any) -> Apart:
    names, facts = weight.__tensor_flatten__()
    shape, turned = tuple(weight.shape), type(weight).__name__ == "Int4Tensor"
    parts = {name: vars(weight)[name] for name in names}
    if turned:
        parts |= {name: parts[name].t() for name in ("scale", "zero_point")}
    grains = {}
    for name, x in parts.items():
        if x.numel() == 1:
            grains[name] = (SHARED,) * len(shape)
        elif x.ndim != len(shape):
            raise ValueError(f"a {type(weight).__name__} with {name}")
        else:
            grains[name] = ratios(x, shape, shares=name != "qdata")
    return Apart(shape, parts, grains, _build_torchao, (type(weight), facts, turned))


def _build_torchao(apart: Apart) -> Tensor:
    kind, facts, turned = apart.facts
    parts = {name: x.contiguous() for name, x in apart.parts.items()}
    if turned:
        parts |= {name: parts[name].t().contiguous() for name in ("scale", "zero_point")}
    facts = dict(facts)
    if facts["block_size"]:
        grains = zip(apart.grains["scale"], apart.shape, strict=True)
        facts["block_size"] = type(facts["block_size"])(grain or length for grain, length in grains)
    if "shape" in facts:
        facts["shape"] = torch.Size(apart.shape)
    return kind.__tensor_unflatten__(parts, facts, None, None)


# optimum-quanto


def _quanto_bytes(weight: Any) -> Apart:
    parts, shape = {"data": weight._data, "scale": weight._scale}, tuple(weight.shape)
    grains = {"data": (1, 1), "scale": ratios(weight._scale, shape, shares=True) or (SHARED, SHARED)}
    return Apart(
        shape, parts, grains, _build_quanto_bytes, (type(weight), weight.qtype, weight.axis, weight.activation_qtype)
    )


def _build_quanto_bytes(apart: Apart) -> Tensor:
    kind, qtype, axis, activation = apart.facts
    size, data = torch.Size(apart.shape), apart.parts["data"].contiguous()
    return kind(qtype, axis, size, data.stride(), data, apart.parts["scale"].contiguous(), activation)


def _quanto_bits(weight: Any) -> Apart:
    shape = tuple(weight.shape)
    if weight.axis != 0:
        raise ValueError(f"a {type(weight).__name__} that is quantized along its last dimension")
    parts = {"data": weight._data.unpack().view(shape)}
    parts |= {name: vars(weight)[name].view(shape[0], -1) for name in ("_scale", "_shift")}
    grains = {name: ratios(x, shape, shares=name != "data") for name, x in parts.items()}
    return Apart(shape, parts, grains, _build_quanto_bits, (type(weight), weight.qtype, weight._group_size))


def _build_quanto_bits(apart: Apart) -> Tensor:
    kind, qtype, group = apart.facts
    size, data, column = torch.Size(apart.shape), apart.parts["data"].contiguous(), (-1, 1)
    scale, shift = (apart.parts[name].reshape(column) for name in ("_scale", "_shift"))
    return kind(qtype, 0, group, size, data.stride(), data if group is None else data.view(-1, group), scale, shift)


def _tiny_gemm(weight: Any) -> Apart:
    parts = {"data": weight._data.unpack(), "scale": weight._scale_shift.transpose(0, 1)}
    shape = tuple(weight.shape)
    grains = {"data": (1, 1), "scale": (1, weight._group_size)}
    return Apart(
        shape, parts, grains, _build_tiny_gemm, (type(weight), type(weight._data), weight.qtype, weight._group_size)
    )


def _build_tiny_gemm(apart: Apart) -> Tensor:
    kind, pack, qtype, group = apart.facts
    data, scale = apart.parts["data"].contiguous(), apart.parts["scale"].transpose(0, 1).contiguous()
    return kind(qtype, 0, group, torch.Size(apart.shape), data.stride(), pack.pack(data), scale)


# bitsandbytes


def _bits_and_bytes_4(weight: Any) -> Apart:
    state = weight.quant_state
    if not weight.bnb_quantized or state is None:
        raise ValueError("a Params4bit that is not quantized before it is moved (pipe.to(device))")
    shape, block = tuple(state.shape), state.blocksize
    origin: dict[str, Any] = {}
    data, absmax = plain(weight), state.absmax
    if vars(state).get("packing_format_for_cpu"):
        data, absmax = _unpacked(data), absmax.t().float()
    elif state.nested:
        origin = {"absmax": absmax, "offset": state.offset, "state2": copy.copy(state.state2)}
        absmax = _nested(state, absmax) + state.offset
    rows = block // math.gcd(shape[1], block)  # after which a block begins with a row again
    rows = rows if shape[0] % rows == 0 else shape[0]
    byte, grain = ((1, 2), (1, block)) if rows == 1 else ((rows, shape[1]),) * 2
    parts = {"data": data.view(torch.uint8), "absmax": absmax}
    parts = {name: x.reshape(shape[0] // rows, -1) for name, x in parts.items()} | {"code": state.code}
    skeleton = copy.copy(state)
    vars(skeleton).update(absmax=None, code=None, offset=None, state2=None, nested=False)
    vars(skeleton).pop("packing_format_for_cpu", None)
    facts = {name: vars(weight)[name] for name in ("blocksize", "quant_type", "quant_storage")}
    grains = {"data": byte, "absmax": grain, "code": (SHARED, SHARED)}
    return Apart(shape, parts, grains, _build_bits_and_bytes_4, (type(weight), facts, skeleton), origin)


def _nested(state: Any, absmax: Tensor) -> Tensor:
    """Scales that are quantized themselves, in blocks."""
    from bitsandbytes.functional import dequantize_blockwise

    return dequantize_blockwise(absmax, state.state2)


def _unpacked(data: Tensor) -> Tensor:
    """Undo how bitsandbytes arranges a weight on some CPUs: halves of 64 entries as the low and high halves of bytes.

    Its own way back rounds the scales once more.
    """
    rows, columns, block = data.shape[0], data.shape[1], 32
    packed = data.reshape(-1, block)
    entries = torch.cat([packed & 0xF, packed >> 4], -1).reshape(rows // block, columns, block, 2)
    first, second = entries.transpose(1, 2).reshape(rows, columns, 2).unbind(-1)
    return first << 4 | second


def _build_bits_and_bytes_4(apart: Apart) -> Tensor:
    kind, facts, skeleton = apart.facts
    state, data = copy.copy(skeleton), apart.parts["data"].reshape(-1, 1).view(facts["quant_storage"])
    absmax, nested = apart.parts["absmax"].reshape(-1), bool(apart.origin)
    vars(state).update(code=apart.parts["code"], absmax=absmax, shape=torch.Size(apart.shape), nested=nested)
    if nested:
        vars(state).update(apart.origin, state2=copy.copy(apart.origin["state2"]))
    state.to(data.device)
    return kind(data, requires_grad=False, quant_state=state, compress_statistics=nested, bnb_quantized=True, **facts)


def _bits_and_bytes_8(weight: Any) -> Apart:
    data = plain(weight)
    if data.dtype != torch.int8 or weight.SCB is None:
        raise ValueError("an Int8Params that is not quantized before it is moved (pipe.to(device))")
    parts = {"data": data, "scale": weight.SCB.view(-1, 1)}
    grains = {"data": (1, 1), "scale": (1, SHARED)}
    return Apart(tuple(weight.shape), parts, grains, _build_bits_and_bytes_8, type(weight))


def _build_bits_and_bytes_8(apart: Apart) -> Tensor:
    data, scale = apart.parts["data"].contiguous(), apart.parts["scale"].reshape(-1)
    return apart.facts(data, requires_grad=False, has_fp16_weights=False, CB=data, SCB=scale)


# GGUF files, read by diffusers


def _gguf(weight: Any) -> Apart:
    from diffusers.quantizers.gguf.utils import GGML_QUANT_SIZES

    block, size = GGML_QUANT_SIZES[weight.quant_type]
    data = plain(weight)
    shape = (*data.shape[:-1], data.shape[-1] // size * block)
    grain = (1,) * (len(shape) - 1) + (block,)
    return Apart(
        shape, {"data": data.unflatten(-1, (-1, size))}, {"data": grain}, _build_gguf, (type(weight), weight.quant_type)
    )


def _build_gguf(apart: Apart) -> Tensor:
    kind, quant_type = apart.facts
    return kind(apart.parts["data"].flatten(-2).contiguous(), quant_type=quant_type)


READERS: dict[tuple[str, str], Callable[[Any], Apart]] = {
    ("torchao", "Int8Tensor"): _torchao,
    ("torchao", "Float8Tensor"): _torchao,
    ("torchao", "IntxUnpackedToInt8Tensor"): _torchao,
    ("torchao", "Int4Tensor"): _torchao,
    ("optimum", "WeightQBytesTensor"): _quanto_bytes,
    ("optimum", "WeightQBitsTensor"): _quanto_bits,
    ("optimum", "TinyGemmWeightQBitsTensor"): _tiny_gemm,
    ("bitsandbytes", "Params4bit"): _bits_and_bytes_4,
    ("bitsandbytes", "Int8Params"): _bits_and_bytes_8,
    ("diffusers", "GGUFParameter"): _gguf,
}


def plain(x: Tensor) -> Tensor:
    with torch._C.DisableTorchFunctionSubclass():
        return x.detach().as_subclass(Tensor)
