"""What a pipeline is made of: transformers with their sheets, ControlNets, and what else ranks can share."""

from collections.abc import Iterable
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ditmesh.cache.adapter import BlockAdapter
from ditmesh.config import ParallelismConfig, suggest
from ditmesh.models import CONTROLNETS, SPECS
from ditmesh.parallel.controlnet import nets_of
from ditmesh.spec import ModelSpec

Models = list[tuple[Any, ModelSpec]]


def unpack(pipe_or_adapter: Any) -> tuple[Any, Models]:
    """The pipeline, or the transformer that is called by itself; and the transformers, in a fixed order.

    Raises:
        ValueError: none of its transformers has a fact sheet.
    """
    if isinstance(pipe_or_adapter, BlockAdapter):
        model, pipe = pipe_or_adapter.transformer, pipe_or_adapter.pipe
        return model if pipe is None else pipe, [(model, pipe_or_adapter.spec(SPECS.get(type(model).__name__)))]
    modules = [pipe_or_adapter] if isinstance(pipe_or_adapter, nn.Module) else components(pipe_or_adapter).values()
    found = [(part, SPECS[type(part).__name__]) for part in modules if type(part).__name__ in SPECS]
    if not found:
        raise ValueError(
            f"{type(pipe_or_adapter).__name__} has no transformer that ditmesh knows; it knows "
            f"{', '.join(sorted(SPECS))}. To cache another, say what its blocks are with a BlockAdapter."
        )
    return pipe_or_adapter, distinct(found)


def components(pipe: Any) -> dict[str, nn.Module]:
    """The modules of a pipeline by name; a transformer alone has none."""
    parts = {} if isinstance(pipe, nn.Module) else pipe.components
    return {name: part for name, part in parts.items() if isinstance(part, nn.Module)}


def distinct(models: Iterable[tuple[Any, ModelSpec]]) -> Models:
    """Each model once."""
    return list({id(model): (model, spec) for model, spec in models}.values())


def extra_modules(pipe: Any, parallelism: ParallelismConfig, transformers: Models) -> list[nn.Module]:
    """The modules to share beside the transformers, each once.

    Raises:
        ValueError: a name the pipeline does not have, or a module that cannot be shared.
    """
    given = {id(module): module for module in (_component(pipe, x) for x in parallelism.extra_parallel_modules)}
    extras = [module for module in given.values() if not any(module is model for model, _ in transformers)]
    for module in extras:
        if not (controlnets(module) or isinstance(module, PreTrainedModel) or _is_autoencoder(module)):
            raise ValueError(
                f"extra_parallel_modules: {_title(module)} is no text encoder, autoencoder or ControlNet that can be "
                f"shared; leave it out and every rank runs the whole of it, which every layout of the transformer "
                f"allows. The ControlNets that can be: {', '.join(sorted(CONTROLNETS))}."
            )
    return extras


def controlnets(module: nn.Module) -> Models:
    """The ControlNets of a module that is one, or sums up several; none if it is anything else."""
    nets = nets_of(module)
    known = all(type(net).__name__ in CONTROLNETS for net in nets)
    return [(net, CONTROLNETS[type(net).__name__]) for net in nets] if known else []


def _title(module: nn.Module) -> str:
    """A module's class, with those of the ControlNets in it if it holds several."""
    return " of ".join(dict.fromkeys(type(part).__name__ for part in [module, *nets_of(module)]))


def _is_autoencoder(module: nn.Module) -> bool:
    return bool({"encoder", "decoder"} & set(dict(module.named_children())))


def _component(pipe: Any, module: Any) -> nn.Module:
    """A module of the pipeline given by itself or by its name."""
    named = components(pipe)
    found = named.get(module) if isinstance(module, str) else module
    if not isinstance(found, nn.Module):
        raise ValueError(f"extra_parallel_modules: there is no module {module!r}; {suggest(str(module), named)}")
    return found
