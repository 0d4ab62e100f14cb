"""The one flow: what ``enable_cache`` does to a pipeline, in the order it happens, and how it is taken back."""

import logging
import os
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from transformers import PreTrainedModel

from ditmesh.attention.backend import check_backend, local_backend, reroute
from ditmesh.config import ParallelismConfig, suggest
from ditmesh.mesh import build_mesh, replica_mesh
from ditmesh.models import CONTROLNETS, SPECS
from ditmesh.modules import expand
from ditmesh.parallel.context import apply_context_parallel
from ditmesh.parallel.controlnet import check_own_blocks, nets_of, tell_apart
from ditmesh.parallel.tensor import apply_tensor_parallel
from ditmesh.parallel.text_encoder import apply_text_encoder_parallel
from ditmesh.parallel.vae import apply_vae_parallel
from ditmesh.planner.checks import check_layout
from ditmesh.spec import ModelSpec

Pipeline = TypeVar("Pipeline")
Models = list[tuple[Any, ModelSpec]]
STATE = "_ditmesh_undo"  # the attribute of a module that holds what takes its layout back


def enable_cache(
    pipe: Pipeline,
    cache_config: Any = None,
    *,
    parallelism_config: ParallelismConfig | None = None,
    attention_backend: str | None = None,
) -> Pipeline:
    """Spread a pipeline over the ranks of this job, in place.

    Every rank calls this with the same arguments, before or after ``pipe.to(device)``, and then calls the pipeline as
    usual: each gets the picture of one device. A process group is started if there is none (gloo, nccl for CUDA).

    Args:
        pipe: a diffusers pipeline, or a transformer alone.
        cache_config: not built yet.
        parallelism_config: how many ranks each strategy gets. Its ``extra_parallel_modules`` (text encoders, VAEs
            and ControlNets, or their names in the pipeline) are shared too, ControlNets as the transformer is.
        attention_backend: the kernel of one rank's attention, named as diffusers names it.

    Returns:
        ``pipe`` itself.

    Raises:
        ValueError: nothing to do, a layout the model or the number of ranks cannot run, a kernel that cannot do what
            the layout needs, or a pipeline that is enabled already. Nothing has been changed then.
    """
    if cache_config is not None:
        raise ValueError("cache_config: caching is not built yet; leave it out and pass parallelism_config.")
    parallelism = parallelism_config or ParallelismConfig()
    kernel = _agreed(parallelism.attention_backend, attention_backend)
    if parallelism_config is None and kernel is None:
        raise ValueError("enable_cache has nothing to do; pass parallelism_config=ParallelismConfig(ulysses_size=2).")
    transformers = _transformers(pipe)
    extras = _extras(pipe, parallelism, [model for model, _ in transformers])
    controlnets = _distinct(known for module in extras for known in _controlnets(module))
    modules = {id(module): module for module in [*extras, *(model for model, _ in transformers + controlnets)]}
    for module in modules.values():
        _refuse_enabled(module)
    for model, spec in transformers + controlnets:
        check_layout(parallelism, spec.transformer, model.config, _world_size() if parallelism_config else None)
    mesh = _mesh(parallelism) if parallelism.world_size > 1 else None
    with ExitStack() as undo:  # closed if a step fails, so that nothing is left half done
        if mesh is not None:
            _apply(transformers, controlnets, [*extras, *_components(pipe).values()], parallelism, kernel, mesh, undo)
            _apply_extras(extras, replica_mesh(mesh), undo)
        elif kernel is not None:
            _use_kernel(transformers + controlnets, kernel, undo)
        _remember(undo.pop_all(), modules.values())
    return pipe


def _remember(steps: ExitStack, modules: Iterable[nn.Module]) -> None:
    for module in modules:
        vars(module)[STATE] = steps
        steps.callback(vars(module).pop, STATE)


def _refuse_enabled(module: nn.Module) -> None:
    if STATE in vars(module):
        raise ValueError(f"this {type(module).__name__} is enabled already; call ditmesh.disable_cache first.")


def _apply(
    transformers: Models,
    controlnets: Models,
    others: list[nn.Module],
    parallelism: ParallelismConfig,
    kernel: str | None,
    mesh: DeviceMesh,
    undo: ExitStack,
) -> None:
    originals = [model for model, _ in transformers]
    if parallelism.tp_size > 1:
        for model, spec in controlnets:
            check_own_blocks(model, spec, originals)
        for model, spec in transformers + controlnets:
            apply_tensor_parallel(model, spec, mesh["tp"], undo)
    if parallelism.ulysses_size * parallelism.ring_size > 1:
        for module in others:
            tell_apart(module, originals, undo)
        for model, spec in transformers + controlnets:
            apply_context_parallel(model, spec, mesh, kernel, undo)
    elif kernel is not None:
        _use_kernel(transformers + controlnets, kernel, undo)


def _apply_extras(extras: list[nn.Module], mesh: DeviceMesh, undo: ExitStack) -> None:
    for module in extras:
        if isinstance(module, PreTrainedModel):
            for whole in apply_text_encoder_parallel(module, mesh, undo):
                logging.getLogger("ditmesh").info("every rank keeps the whole of %s", whole)
        elif not _controlnets(module):
            apply_vae_parallel(module, mesh, undo)


def disable_cache(pipe: Pipeline) -> Pipeline:
    """Take back what ``enable_cache`` did, so that the pipeline is as before; every rank has to call it.

    Raises:
        ValueError: the pipeline is not enabled.
    """
    models = [model for model, _ in _transformers(pipe)]
    for model in models:
        if STATE not in vars(model):
            raise ValueError(f"this {type(model).__name__} is not enabled; there is nothing to disable.")
    vars(models[0])[STATE].close()
    return pipe


def _components(pipe: Any) -> dict[str, nn.Module]:
    parts = {} if isinstance(pipe, nn.Module) else pipe.components
    return {name: part for name, part in parts.items() if isinstance(part, nn.Module)}


def _extras(pipe: Any, parallelism: ParallelismConfig, transformers: list[nn.Module]) -> list[nn.Module]:
    """The modules to share beside the transformers, each once."""
    given = {id(module): module for module in (_component(pipe, x) for x in parallelism.extra_parallel_modules)}
    extras = [module for module in given.values() if not any(module is model for model in transformers)]
    for module in extras:
        if not (_controlnets(module) or isinstance(module, PreTrainedModel) or _is_autoencoder(module)):
            raise ValueError(
                f"extra_parallel_modules: {_title(module)} is no text encoder, autoencoder or ControlNet that can be "
                f"shared; leave it out and every rank runs the whole of it, which every layout of the transformer "
                f"allows. The ControlNets that can be: {', '.join(sorted(CONTROLNETS))}."
            )
    return extras


def _title(module: nn.Module) -> str:
    """A module's class, with those of the ControlNets in it if it holds several."""
    return " of ".join(dict.fromkeys(type(part).__name__ for part in [module, *nets_of(module)]))


def _is_autoencoder(module: nn.Module) -> bool:
    return bool({"encoder", "decoder"} & set(dict(module.named_children())))


def _controlnets(module: nn.Module) -> Models:
    """The ControlNets of a module that is one, or sums up several; none if it is anything else."""
    nets = nets_of(module)
    known = all(type(net).__name__ in CONTROLNETS for net in nets)
    return [(net, CONTROLNETS[type(net).__name__]) for net in nets] if known else []


def _component(pipe: Any, module: Any) -> nn.Module:
    """A module of the pipeline given by itself or by its name."""
    named = _components(pipe)
    found = named.get(module) if isinstance(module, str) else module
    if not isinstance(found, nn.Module):
        raise ValueError(f"extra_parallel_modules: there is no module {module!r}; {suggest(str(module), named)}")
    return found


def _transformers(pipe: Any) -> Models:
    """The transformers of a pipeline that have a fact sheet, in a fixed order."""
    components = [pipe] if isinstance(pipe, nn.Module) else _components(pipe).values()
    found = [(part, SPECS[type(part).__name__]) for part in components if type(part).__name__ in SPECS]
    if not found:
        raise ValueError(
            f"{type(pipe).__name__} has no transformer that ditmesh knows; it knows {', '.join(sorted(SPECS))}."
        )
    return _distinct(found)


def _distinct(models: Iterable[tuple[Any, ModelSpec]]) -> Models:
    return list({id(model): (model, spec) for model, spec in models}.values())


def _use_kernel(models: Models, kernel: str, undo: ExitStack) -> None:
    check_backend(kernel, ring=1, device_type=_device_type())
    for model, spec in models:
        for _, attention in [found for pattern in spec.attention for found in expand(model, pattern)]:
            undo.callback(reroute(attention, local_backend(kernel)))


def _agreed(first: str | None, second: str | None) -> str | None:
    if first and second and first != second:
        raise ValueError(
            f"attention_backend is {second!r} and parallelism_config.attention_backend {first!r}; pass one of them."
        )
    return first or second


def _device_type() -> str:
    if dist.is_initialized():
        return "cuda" if "nccl" in str(dist.get_backend_config()) else "cpu"
    return "cuda" if torch.cuda.is_available() else "cpu"


def _world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else int(os.environ.get("WORLD_SIZE", "1"))


def _mesh(parallelism: ParallelismConfig) -> DeviceMesh:
    device_type = _device_type()
    if not dist.is_initialized():
        if device_type == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo")
    return build_mesh(parallelism, device_type)
