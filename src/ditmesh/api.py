"""The one flow: what ``enable_cache`` does to a pipeline, in the order it happens, and how it is taken back."""

import logging
import os
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
from ditmesh.models import SPECS
from ditmesh.modules import expand
from ditmesh.parallel.context import apply_context_parallel
from ditmesh.parallel.guidance import apply_guidance_parallel, watch_guidance
from ditmesh.parallel.tensor import apply_tensor_parallel
from ditmesh.parallel.text_encoder import apply_text_encoder_parallel
from ditmesh.parallel.vae import apply_vae_parallel
from ditmesh.planner.checks import check_layout
from ditmesh.spec import ModelSpec

Pipeline = TypeVar("Pipeline")
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
        parallelism_config: how many ranks each strategy gets. Its ``extra_parallel_modules``, text encoders and VAEs or
            their names in the pipeline, are shared by all ranks of the layout.
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
    extras = [_component(pipe, module) for module in parallelism.extra_parallel_modules]
    modules = [*extras, *(model for model, _ in transformers)]
    for module in modules:
        _refuse_enabled(module)
    for model, spec in transformers:
        check_layout(parallelism, spec.transformer, model.config, _world_size() if parallelism_config else None)
    mesh = _mesh(parallelism) if parallelism.world_size > 1 else None
    with ExitStack() as undo:  # closed if a step fails, so that nothing is left half done
        for model, spec in transformers:
            _apply(model, spec, parallelism, kernel, mesh, undo)
        if mesh is not None and parallelism.cfg_size > 1:
            guidances = [apply_guidance_parallel(model, spec, mesh["cfg"], undo) for model, spec in transformers]
            if not isinstance(pipe, nn.Module):
                watch_guidance(pipe, guidances, undo)
        for module in extras if mesh is not None else []:
            _apply_extra(module, replica_mesh(mesh), undo)
        steps = undo.pop_all()
    for module in modules:
        vars(module)[STATE] = steps
        steps.callback(vars(module).pop, STATE)
    return pipe


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
    models = [model for model, _ in _transformers(pipe)]
    for model in models:
        if STATE not in vars(model):
            raise ValueError(f"this {type(model).__name__} is not enabled; there is nothing to disable.")
    vars(models[0])[STATE].close()
    return pipe


def _component(pipe: Any, module: Any) -> nn.Module:
    """A module of the pipeline given by itself or by its name."""
    named = (
        {} if isinstance(pipe, nn.Module) else {k: x for k, x in pipe.components.items() if isinstance(x, nn.Module)}
    )
    found = named.get(module) if isinstance(module, str) else module
    if not isinstance(found, nn.Module):
        raise ValueError(f"extra_parallel_modules: there is no module {module!r}; {suggest(str(module), named)}")
    return found


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
