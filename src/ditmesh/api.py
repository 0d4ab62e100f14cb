"""The one flow: what ``enable_cache`` does to a pipeline, in the order it happens, and how it is taken back."""

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from diffusers.configuration_utils import ConfigMixin
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from transformers import PreTrainedModel

from ditmesh.attention.backend import check_backend, local_backend, reroute
from ditmesh.cache.adapter import BlockAdapter, ForwardPattern
from ditmesh.cache.caching import Caching, refresh_context, strify, summary
from ditmesh.config import CacheType, CalibratorConfig, DBCacheConfig, ParallelismConfig, ParamsModifier, suggest
from ditmesh.mesh import build_mesh, forward_mesh, replica_mesh
from ditmesh.models import SPECS
from ditmesh.modules import expand
from ditmesh.parallel.context import apply_context_parallel
from ditmesh.parallel.tensor import apply_tensor_parallel
from ditmesh.parallel.text_encoder import apply_text_encoder_parallel
from ditmesh.parallel.vae import apply_vae_parallel
from ditmesh.planner.checks import check_layout
from ditmesh.spec import ModelSpec

__all__ = ["BlockAdapter", "ForwardPattern", "disable_cache", "enable_cache", "refresh_context", "strify", "summary"]

Pipeline = TypeVar("Pipeline")
STATE = "_ditmesh_undo"  # the attribute of a module that holds what takes its layout back


def enable_cache(
    pipe_or_adapter: Pipeline,
    cache_config: DBCacheConfig | None = None,
    calibrator_config: CalibratorConfig | None = None,
    params_modifiers: ParamsModifier | Sequence[Any] | None = None,
    parallelism_config: ParallelismConfig | None = None,
    attention_backend: str | None = None,
) -> Pipeline:
    """Spread a pipeline over the ranks of this job and cache its steps, in place.

    Every rank calls this with the same arguments, before or after ``pipe.to(device)``, and then calls the pipeline as
    usual: without a cache each gets the picture of one device. A process group is started if there is none (gloo, nccl
    for CUDA). With no config at all the default cache is enabled.

    Args:
        pipe_or_adapter: a diffusers pipeline, a transformer alone, or a ``BlockAdapter`` for one without a fact sheet.
        cache_config: when the blocks of a step are left out; None for never, if anything else is asked for.
        calibrator_config: how a cached step guesses what they would have added.
        params_modifiers: what one list of blocks does differently; a list has one for each list of blocks, or for each
            transformer if the pipeline has two; a list of lists has both.
        parallelism_config: how many ranks each strategy gets. Its ``extra_parallel_modules``, text encoders and VAEs or
            their names in the pipeline, are shared by all ranks of the layout.
        attention_backend: the kernel of one rank's attention, named as diffusers names it.

    Returns:
        what it was given.

    Raises:
        ValueError: a layout the model or the number of ranks cannot run, a kernel that cannot do what
            the layout needs, or a pipeline that is enabled already. Nothing has been changed then.
    """
    parallelism = parallelism_config or ParallelismConfig()
    kernel = _agreed(parallelism.attention_backend, attention_backend)
    if cache_config is None and parallelism_config is None and kernel is None:
        cache_config = DBCacheConfig()
    pipe, transformers = _unpack(pipe_or_adapter)
    caching = None
    if cache_config is not None and cache_config.cache_type is not CacheType.NONE:
        caching = Caching(pipe_or_adapter, transformers, cache_config, calibrator_config, params_modifiers)
    elif calibrator_config is not None or params_modifiers is not None:
        raise ValueError("calibrator_config and params_modifiers change a cache; pass cache_config=DBCacheConfig(...).")
    extras = [_component(pipe, module) for module in parallelism.extra_parallel_modules]
    modules = [*extras, *(model for model, _ in transformers)]
    for module in modules:
        _refuse_enabled(module)
    for model, spec in transformers if parallelism_config is not None else []:
        check_layout(parallelism, spec.transformer, _config(model), _world_size())
    mesh = _mesh(parallelism) if parallelism.world_size > 1 else None
    with ExitStack() as undo:  # closed if a step fails, so that nothing is left half done
        for model, spec in transformers:
            _apply(model, spec, parallelism, kernel, mesh, undo)
        if caching is not None:
            caching.apply(parallelism, None if mesh is None else forward_mesh(mesh), undo)
        for module in extras if mesh is not None else []:
            _apply_extra(module, replica_mesh(mesh), undo)
        steps = undo.pop_all()
    for module in modules:
        vars(module)[STATE] = steps
        steps.callback(vars(module).pop, STATE)
    return pipe_or_adapter


def _refuse_enabled(module: nn.Module) -> None:
    if STATE in vars(module):
        raise ValueError(f"this {type(module).__name__} is enabled already; call ditmesh.disable_cache first.")


def _apply(
    model: nn.Module,
    spec: ModelSpec,
    parallelism: ParallelismConfig,
    kernel: str | None,
    mesh: DeviceMesh | None,
    undo: ExitStack,
) -> None:
    if mesh is not None and parallelism.tp_size > 1:
        apply_tensor_parallel(model, spec, mesh["tp"], undo)
    if mesh is not None and parallelism.ulysses_size * parallelism.ring_size > 1:
        apply_context_parallel(model, spec, mesh, kernel, undo)
    elif kernel is not None:
        _use_kernel(model, spec, kernel, undo)


def _apply_extra(module: nn.Module, mesh: DeviceMesh, undo: ExitStack) -> None:
    if "ControlNet" in type(module).__name__:
        raise ValueError(
            f"extra_parallel_modules: {type(module).__name__} is not parallelized yet; leave it out and every rank "
            f"runs the whole of it, which every layout of the transformer allows."
        )
    if isinstance(module, PreTrainedModel):
        for whole in apply_text_encoder_parallel(module, mesh, undo):
            logging.getLogger("ditmesh").info("every rank keeps the whole of %s", whole)
    else:
        apply_vae_parallel(module, mesh, undo)


def disable_cache(pipe: Pipeline) -> Pipeline:
    """Take back what ``enable_cache`` did, so that the pipeline is as before; every rank has to call it.

    Raises:
        ValueError: the pipeline is not enabled.
    """
    models = [model for model, _ in _unpack(pipe)[1]]
    for model in models:
        if STATE not in vars(model):
            raise ValueError(f"this {type(model).__name__} is not enabled; there is nothing to disable.")
    vars(models[0])[STATE].close()
    return pipe


def _config(model: nn.Module) -> Mapping[str, Any]:
    return model.config if isinstance(model, ConfigMixin) else {}


def _component(pipe: Any, module: Any) -> nn.Module:
    """A module of the pipeline given by itself or by its name."""
    named = (
        {} if isinstance(pipe, nn.Module) else {k: x for k, x in pipe.components.items() if isinstance(x, nn.Module)}
    )
    found = named.get(module) if isinstance(module, str) else module
    if not isinstance(found, nn.Module):
        raise ValueError(f"extra_parallel_modules: there is no module {module!r}; {suggest(str(module), named)}")
    return found


def _unpack(pipe_or_adapter: Any) -> tuple[Any, list[tuple[Any, ModelSpec]]]:
    """The pipeline, or the transformer that is called by itself, and the transformers with their sheets."""
    if not isinstance(pipe_or_adapter, BlockAdapter):
        return pipe_or_adapter, _transformers(pipe_or_adapter)
    model, pipe = pipe_or_adapter.transformer, pipe_or_adapter.pipe
    return model if pipe is None else pipe, [(model, pipe_or_adapter.spec(SPECS.get(type(model).__name__)))]


def _transformers(pipe: Any) -> list[tuple[Any, ModelSpec]]:
    """The transformers of a pipeline that have a fact sheet, in a fixed order."""
    components = [pipe] if isinstance(pipe, nn.Module) else list(pipe.components.values())
    found = [(part, SPECS[type(part).__name__]) for part in components if type(part).__name__ in SPECS]
    if not found:
        raise ValueError(
            f"{type(pipe).__name__} has no transformer that ditmesh knows; it knows {', '.join(sorted(SPECS))}."
        )
    return found


def _use_kernel(model: nn.Module, spec: ModelSpec, kernel: str, undo: ExitStack) -> None:
    check_backend(kernel, ring=1, device_type=_device_type())
    for pattern in spec.attention:
        for _, attention in expand(model, pattern):
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
