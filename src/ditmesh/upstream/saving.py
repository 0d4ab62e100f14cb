"""Save the whole of a model whose weights are shared out: all ranks put them together."""

import os
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from typing import Any

import torch.distributed as dist
from diffusers.loaders.peft import PeftAdapterMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from transformers import PreTrainedModel

from ditmesh.upstream.modules import check_present, override
from ditmesh.upstream.quantized import settled, take_apart, written

SHARES = "_ditmesh_shares"  # the attribute of a module that says how all ranks put each of its parameters together
# Who asks for a state to move or to compare what is here, which is a share.
MOVERS = ("accelerate.", "diffusers.loaders.", "peft.tuners.")


def keep_share(module: nn.Module, undo: ExitStack, **whole: Callable[[Tensor], Tensor]) -> None:
    """Say what makes a rank's share of a module's parameters whole; of a share of a share, the outer one first."""
    held = vars(module).get(SHARES, {})
    both = {name: _after(outer, held[name]) if name in held else outer for name, outer in whole.items()}
    override(module, SHARES, held | both, undo)


def _after(first: Callable[[Tensor], Tensor], second: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: second(first(x))


def save_whole(model: Any, undo: ExitStack) -> None:
    """Let what saves a model see whole weights; every rank has to call it, and one in each folder writes."""
    own_state, load = model.state_dict, model.load_state_dict

    def state_dict(*args: Any, **kwargs: Any) -> Any:
        state = own_state(*args, **kwargs)
        if not sys._getframe(1).f_globals.get("__name__", "").startswith(MOVERS):
            prefix = kwargs.get("prefix", args[1] if len(args) > 1 else "")
            state.update(_whole(model, state, prefix, lambda x: x))
        return state

    def load_state_dict(state: Any, *args: Any, **kwargs: Any) -> Any:
        for name in shares(model):
            if any(key == name or key.startswith(f"{name}.") for key in state):
                raise ValueError(
                    f"load_state_dict of {type(model).__name__}, {name}: a rank has only a share of these weights; "
                    f"call ditmesh.disable_cache, do it, and enable again."
                )
        return load(state, *args, **kwargs)

    def one_writes(save: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(save)
        def call(save_directory: Any, *args: Any, **kwargs: Any) -> None:
            state = own_state()
            state.update(_whole(model, state, "", Tensor.cpu))
            places: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(places, (socket.gethostname(), os.path.realpath(save_directory)))
            try:
                if places.index(places[dist.get_rank()]) == dist.get_rank():
                    with ExitStack() as saved:
                        override(model, "state_dict", lambda: state.copy(), saved)
                        save(save_directory, *args, **kwargs)
            finally:
                dist.barrier()

        return call

    override(model, "state_dict", state_dict, undo)
    override(model, "load_state_dict", load_state_dict, undo)
    if isinstance(model, ModelMixin | PreTrainedModel):
        override(model, "save_pretrained", one_writes(model.save_pretrained), undo)
    if isinstance(model, PeftAdapterMixin):
        override(model, "save_lora_adapter", one_writes(model.save_lora_adapter), undo)


def shares(model: nn.Module) -> dict[str, tuple[nn.Module, Callable[[Tensor], Tensor]]]:
    """By its name in the state, what holds each parameter that a rank has a share of, and what makes it whole."""
    return {
        f"{path}.{name}".lstrip("."): (module, vars(module)[SHARES][name])
        for path, module in model.named_modules(remove_duplicate=False)
        for name, _ in module.named_parameters(recurse=False)
        if name in vars(module).get(SHARES, {})
    }


def _whole(model: nn.Module, state: Any, prefix: str, place: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """The state's parameters that ranks share out, whole; tied ones stay tied."""
    check_present(model)
    made: dict[int, dict[str, Tensor]] = {}
    found = {}
    for path, (module, whole) in shares(model).items():
        parent, dot, name = path.rpartition(".")
        weight = settled(module).get_parameter(name)
        if id(weight) not in made:
            x = whole(weight if type(weight) is not nn.Parameter else weight.detach())
            parts = {name: x} if take_apart(x) is None else written(module, x, name)
            made[id(weight)] = {key: place(part) for key, part in parts.items()}
            if name not in parts:
                state.pop(prefix + path, None)
        found |= {f"{prefix}{parent}{dot}{key}": x for key, x in made[id(weight)].items()}
    return found
