"""ControlNet parallelism: a ControlNet is sharded and cut like a transformer, by a sheet of its own.

What is left to do here is to tell it from its transformer. A ControlNet may run modules that are the transformer's,
each along sequences of its own, where one hook cannot serve both. So it gets twins of them: modules of the same
parameters, sharded if the transformer's are, whose hooks and attention processors are the ControlNet's.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack

from torch import nn

from ditmesh.spec import ModelSpec
from ditmesh.upstream.modules import expand, held, seats, twin


def check_own_blocks(controlnet: nn.Module, spec: ModelSpec, transformers: Iterable[nn.Module]) -> None:
    """Refuse a ControlNet that has modules from a transformer which both would shard.

    Raises:
        ValueError: it does.
    """
    theirs = _modules_of(transformers)
    for name, module in (found for pattern in spec.tp_plan for found in expand(controlnet, pattern)):
        if id(module) in theirs:
            raise ValueError(
                f"extra_parallel_modules: {spec.title} shares {name} with the transformer, and tp_size would shard it "
                f"twice; give the ControlNet a copy, or leave it out and every rank runs the whole of it."
            )


def tell_apart(module: nn.Module, transformers: Iterable[nn.Module], undo: ExitStack) -> None:
    """Give a module twins of those modules in it that are a transformer's, in place.

    Args:
        module: a ControlNet, or whatever else stands beside the transformers, parallelized or not.
        transformers: those that are about to be cut; they have been sharded by now.
        undo: takes what gives the module the transformer's own modules back.

    Raises:
        ValueError: a shared module has a forward of its own, which its twin would not have.
    """
    shared = list(_shared(module, _modules_of(transformers)))
    twins: dict[int, nn.Module] = {}
    for parent, name, child in shared:
        path = f"{type(module).__name__}.{name}"
        seats(parent)[name] = twins.setdefault(id(child), _twin(path, child))
        undo.callback(_put_back, parent, name, twins[id(child)], child)

    def check(module: nn.Module, args: tuple[object, ...]) -> None:
        for parent, name, child in shared:
            if seats(parent)[name] is not twins[id(child)]:
                raise ValueError(
                    f"{name} of {type(module).__name__} was replaced after enable_cache (a pipeline made of the same "
                    f"parts does that); call disable_cache, make the pipeline, and enable again."
                )

    if shared:
        undo.callback(module.register_forward_pre_hook(check).remove)


def _modules_of(models: Iterable[nn.Module]) -> set[int]:
    return {id(module) for model in models for module in model.modules()}


def _shared(module: nn.Module, theirs: set[int]) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Where (parent, name) the outermost modules stand that are the transformers'."""
    for parent in [part for part in module.modules() if id(part) not in theirs]:
        for name, child in seats(parent).items():
            if child is not None and id(child) in theirs:
                yield parent, name, child


def _twin(path: str, module: nn.Module) -> nn.Module:
    if held(module, "forward") is not None:
        raise ValueError(
            f"{path} is the transformer's too, and something (offloading, casting) has given it a forward of its own; "
            f"take that off before enable_cache and put it on again after."
        )
    inside = seats(module).items()
    children = {name: None if child is None else _twin(f"{path}.{name}", child) for name, child in inside}
    return twin(module, children)


def _put_back(parent: nn.Module, name: str, ours: nn.Module, shared: nn.Module) -> None:
    if seats(parent).get(name) is ours:
        seats(parent)[name] = shared
