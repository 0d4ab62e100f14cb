"""Linears whose weights are quantized: which are known, what cutting them takes, and how they scale their inputs."""

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ditmesh.upstream.apart import SHARED, Apart
from ditmesh.upstream.quantized_kinds import READERS
from ditmesh.upstream.unread import Unread

Module = TypeVar("Module", bound=nn.Module)

LINEARS = {
    "torch.nn.modules.linear.Linear",
    "bitsandbytes.nn.modules.Linear4bit",
    "bitsandbytes.nn.modules.LinearFP4",
    "bitsandbytes.nn.modules.LinearNF4",
    "bitsandbytes.nn.modules.Linear8bitLt",
    "diffusers.quantizers.gguf.utils.GGUFLinear",
    "optimum.quanto.nn.qlinear.QLinear",
}


def take_apart(weight: Tensor) -> Apart | None:
    """The parts of a quantized weight; None for a plain one.

    Raises:
        ValueError: it is of a kind that is not known here, or not quantized yet.
    """
    kind = type(weight)
    if kind in (Tensor, nn.Parameter) or issubclass(kind, Unread):
        return None
    reader = READERS.get((kind.__module__.partition(".")[0], kind.__name__))
    if reader is None:
        raise ValueError(f"a {kind.__name__} of {kind.__module__.partition('.')[0]}")
    return reader(weight)


def is_linear(module: Any) -> bool:
    """Whether it is a linear of torch, or one that a quantizer has put in its place."""
    return f"{type(module).__module__}.{type(module).__qualname__}" in LINEARS


def shape_of(weight: Tensor) -> tuple[int, ...]:
    """The shape of what a weight stands for."""
    apart = take_apart(weight)
    return tuple(weight.shape) if apart is None else apart.shape


def grain_of(weight: Tensor, dim: int) -> int:
    """How many entries along a dimension belong together."""
    apart = take_apart(weight)
    return 1 if apart is None else apart.grain(dim)


def check_quantized(title: str, module: nn.Module, axis: str, instead: str) -> None:
    """Refuse weights that cannot be taken apart and put together.

    Raises:
        ValueError: quantized weights of an unknown kind, or whole numbers in a plain tensor.
    """
    for inner in module.modules():
        settled(inner)
    for name, weight in module.named_parameters():
        try:
            unknown = take_apart(weight) is None and not weight.is_floating_point() and f"of {weight.dtype}"
        except ValueError as error:
            unknown = str(error)
        if unknown:
            raise ValueError(
                f"{title}.{name} is {unknown}, which {axis} cannot share out; leave quantization off, or {instead}"
            )


def settled(module: Module) -> Module:
    """Bring back to a weight what the forward of its linear has moved elsewhere, or arranged in another way."""
    state, weight = vars(module).get("state"), module._parameters.get("weight")
    if type(module).__name__ == "Linear8bitLt" and state is not None and state.SCB is not None:
        vars(weight).update(CB=weight.data, SCB=state.SCB)  # type: ignore[union-attr]
        state.CB = state.SCB = None
    return module


def seat(module: nn.Module, weight: Tensor, name: str = "weight") -> None:
    """Put a weight into a module, which may keep parts of it beside."""
    before = module._parameters[name]
    settled(module)
    wants = before is not None and before.requires_grad
    module._parameters[name] = weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight.detach(), wants)
    if "quant_state" in vars(module):  # a Linear4bit
        vars(module).update(quant_state=vars(weight).get("quant_state"), support_avx512bf16_for_cpu=False)


def written(module: nn.Module, weight: Tensor, name: str = "weight") -> dict[str, Tensor]:
    """What a module saves of a quantized weight, by its own names, if it had that one."""
    own, others = settled(module)._parameters[name], dict(module.named_parameters(recurse=False)).keys() - {name}
    seat(module, weight, name)
    state = module.state_dict()
    module._parameters[name] = own
    return {key: x for key, x in state.items() if key not in others}


@dataclass(frozen=True)
class Inputs:
    """How a linear quantizes its inputs when it is called.

    Attributes:
        over_tokens: whether the scale, or what is left out of it, depends on other tokens than one's own.
        limit: from which size on inputs are left out of the scale; 0 for never.
    """

    over_tokens: bool = False
    limit: float = 0.0


def inputs_of(module: nn.Module) -> Inputs | None:
    """How a linear scales its inputs by all of their width; None if it does not."""
    weight = module._parameters["weight"]
    facts: dict[str, Any] = vars(weight)
    if type(weight).__name__ == "Int8Params":
        limit = vars(module)["state"].threshold
        return Inputs(over_tokens=limit > 0, limit=limit)
    if facts.get("act_quant_kwargs") is not None and facts.get("act_quant_scale") is None:
        granularity = type(facts["act_quant_kwargs"].granularity).__name__
        return None if granularity == "PerBlock" else Inputs(over_tokens=granularity == "PerTensor")
    by_token = facts.get("activation_quantization") is not None
    by_token |= facts.get("activation_dtype") not in (None, torch.bfloat16)
    return Inputs() if by_token else None


def check_tokens(model: nn.Module, axis: str) -> None:
    """Refuse linears that scale a token's inputs by those of others, where the tokens of a call are on many ranks.

    Raises:
        ValueError: there is one.
    """
    for name, module in model.named_modules():
        inputs = inputs_of(module) if is_linear(module) else None
        if inputs is not None and inputs.over_tokens:
            instead = "llm_int8_threshold=0.0" if inputs.limit else "granularity=PerRow()"
            raise ValueError(
                f"{name} of {type(model).__name__} quantizes its inputs by all tokens of a call, and on {axis} a "
                f"rank has only some; quantize with {instead}, or use tp_size."
            )


def widened(weight: Tensor, columns: int) -> Tensor:
    """A weight with further columns, all of which stand for zero."""
    apart = take_apart(weight)
    assert apart is not None
    zero = apart.parts["zero_point"] if apart.grains.get("zero_point", (1, 1))[1] == SHARED else None

    def widen(x: Tensor, grain: int) -> Tensor:
        added = _bytes(x).new_zeros((x.shape[0], columns // grain, *x.shape[2:])).view(x.dtype)
        added = added if zero is None else zero.to(x.dtype).expand_as(added)
        return torch.cat([_bytes(x), _bytes(added)], 1).view(x.dtype)

    return apart.along(1, apart.shape[1] + columns, widen).weight()


def narrowed(weight: Tensor, width: int) -> Tensor:
    """A weight without such columns."""
    apart = take_apart(weight)
    assert apart is not None
    return apart.along(1, width, lambda x, grain: x.narrow(1, 0, width // grain)).weight()


def _bytes(x: Tensor) -> Tensor:
    """Numbers of eight bits as such, where little is known of others."""
    return x.view(torch.uint8) if x.dtype.itemsize == 1 else x
