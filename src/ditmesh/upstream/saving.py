"""Save whole weights in whole files: ranks put together what they share out, and do not write over one another."""

import os
import re
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ditmesh.runtime.gang import Gang
from ditmesh.upstream.modules import check_present, override
from ditmesh.upstream.quantized import settled, take_apart, written

SHARES = "_ditmesh_shares"  # the attribute of a module that says how all ranks put each of its parameters together
# Who asks for a state to move or to compare what is here, which is a share.
SAVERS = ("save_pretrained", "save_lora_adapter", "save_lora_weights")
PART = re.compile(r"(.+)(?:-\d{5}-of-\d{5}\.\w+|\.\w+\.index\.json)")
MOVERS = ("accelerate.", "diffusers.loaders.", "peft.tuners.")


def keep_share(module: nn.Module, undo: ExitStack, **whole: Callable[[Tensor], Tensor]) -> None:
    """Say what makes a rank's share of a module's parameters whole; of a share of a share, the outer one first."""
    held = vars(module).get(SHARES, {})
    both = {name: after(outer, held[name]) if name in held else outer for name, outer in whole.items()}
    override(module, SHARES, held | both, undo)


def after(first: Callable[[Tensor], Tensor], second: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """One change of a weight, and then another."""
    return lambda x: second(first(x))


def state_whole(model: Any, gang: Gang, undo: ExitStack) -> None:
    """Let the state of a model of which ranks have shares be whole, and refuse to load one; all have to ask for it."""
    own_state, load = model.state_dict, model.load_state_dict

    def state_dict(*args: Any, **kwargs: Any) -> Any:
        state = own_state(*args, **kwargs)
        if not sys._getframe(1).f_globals.get("__name__", "").startswith(MOVERS):  # nothing else tells them from users
            prefix = kwargs.get("prefix", args[1] if len(args) > 1 else "")
            gang.gather(f"state_dict of {type(model).__name__}")
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

    override(model, "state_dict", state_dict, undo)
    override(model, "load_state_dict", load_state_dict, undo)


def save_whole(owner: Any, models: Sequence[nn.Module], gang: Gang | None, undo: ExitStack) -> None:
    """Let a model, or a pipeline of these models, save whole weights, and whole files at any time.

    Where ranks have shares of them, all ranks have to save, and one for each folder writes. Else those write that save,
    into one folder if they like.
    """
    for name in SAVERS:
        if name in dir(owner):
            override(owner, name, _saver(owner, name, models, gang), undo)


def _saver(owner: Any, name: str, models: Sequence[nn.Module], gang: Gang | None) -> Callable[..., None]:
    save = getattr(owner, name)

    @wraps(save)
    def call(save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        # What save_lora_weights is given is whole already.
        shared = [model for model in models if gang and name != "save_lora_weights" and shares(model)]
        title, folder = f"{name} of {type(owner).__name__}", Path(save_directory)
        with ExitStack() as stack:
            writes = gang is None or not shared or stack.enter_context(_together(title, shared, folder, gang))
            for model in models:
                _save_as_ever(model, stack)
            if writes:
                with _aside(folder) as aside:
                    save(aside, *args, **kwargs)

    return call


def _save_as_ever(model: Any, undo: ExitStack) -> None:
    """Let a model be saved as its class does, on any rank."""
    if "save_pretrained" in vars(model):
        override(model, "save_pretrained", partial(type(model).save_pretrained, model), undo)
    if isinstance(model, PreTrainedModel):  # of which the first rank of the world alone would write
        override(model, "should_save_on_this_rank", lambda is_main_process: is_main_process, undo)


@contextmanager
def _together(title: str, models: Sequence[nn.Module], folder: Path, gang: Gang) -> Iterator[bool]:
    """All ranks put models together; true on the one that is to write them into this folder."""
    gang.gather(title)
    place = sha256(f"{socket.gethostname()} {folder.resolve()}".encode()).digest()
    writes, is_done = gang.exchange(place).index(place) == gang.ranks.get_local_rank(), False
    try:
        with ExitStack() as stack:
            for model in models:
                state = type(model).state_dict(model)
                state.update(_whole(model, state, "", Tensor.cpu if writes else lambda _: torch.empty(0)))
                override(model, "state_dict", state.copy, stack)
            yield writes
        is_done = True
    finally:
        told = gang.exchange(bytes([is_done]))
    if bytes(1) in told:
        raise RuntimeError(f"{title}: rank {gang.ranks.ranks[told.index(bytes(1))]} could not; its own error says why.")


@contextmanager
def _aside(folder: Path) -> Iterator[str]:
    """A folder of the same name to write into; its files then come to where they belong, each at once and whole."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".saving-") as made:
        aside = Path(made, folder.resolve().name or "root")
        aside.mkdir()
        yield str(aside)
        new = {file.relative_to(aside): aside / file for file in aside.rglob("*") if file.is_file()}
        for path, file in new.items():
            (folder / path).parent.mkdir(exist_ok=True)
            os.replace(file, folder / path)
        names = {(path.parent, _without_number(path.name) or path.stem) for path in new}
        for old in [old for parent, _ in names for old in (folder / parent).iterdir()]:
            path = old.relative_to(folder)
            if path not in new and (path.parent, _without_number(path.name)) in names:
                old.unlink(missing_ok=True)  # of weights in more files than now


def _without_number(file: str) -> str | None:
    """The name of weights of which this is one of several files, or their index."""
    part = PART.fullmatch(file)
    return None if part is None else part[1]


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
