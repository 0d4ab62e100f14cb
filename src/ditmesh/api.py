"""What users call: enable a pipeline, take that back, or load one so."""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, TypeVar

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ditmesh.cache.caching import refresh_context, strify, summary
from ditmesh.checks import check_world
from ditmesh.config import CalibratorConfig, DBCacheConfig, ParallelismConfig, ParamsModifier
from ditmesh.flow import STATE, agreed, apply, check, make_caching, make_plan, refuse
from ditmesh.loading.errors import told_in_a_line
from ditmesh.loading.fetch import fetch
from ditmesh.loading.reading import load_pipeline, nothing_read, read_in
from ditmesh.pipeline import BlockAdapter, ForwardPattern, components, unpack
from ditmesh.runtime.gang import Gang
from ditmesh.runtime.mesh import device_type, leads, leave_ranks, start_mesh, world_size
from ditmesh.sheets import register
from ditmesh.upstream.modules import check_present, held, override
from ditmesh.upstream.offload import fetched

__all__ = [
    "BlockAdapter",
    "ForwardPattern",
    "disable_cache",
    "enable_cache",
    "from_pretrained",
    "kept_whole",
    "leave_ranks",
    "refresh_context",
    "register",
    "strify",
    "summary",
]

Pipeline = TypeVar("Pipeline")
DOWNLOADS = (  # what decides what is fetched of a repository, and how
    "cache_dir",
    "custom_pipeline",
    "custom_revision",
    "force_download",
    "local_files_only",
    "proxies",
    "revision",
    "token",
    "trust_remote_code",
    "variant",
)
WHOLE = "_ditmesh_kept_whole"  # and what every rank keeps whole of its pipeline's extra modules


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
        parallelism_config: how many ranks each strategy gets. Its ``extra_parallel_modules`` (text encoders, VAEs
            and ControlNets, or their names in the pipeline) are shared too, ControlNets as the transformer is.
        attention_backend: the kernel of one rank's attention, named as diffusers names it.

    Returns:
        what it was given.

    Raises:
        ValueError: a layout the model or the number of ranks cannot run, a cache that does not fit its blocks, a kernel
            that cannot do what the layout needs, or a pipeline that is enabled already. Nothing has been changed then.
    """
    if not any((cache_config, parallelism_config, attention_backend)):
        cache_config = DBCacheConfig()
    parallelism = parallelism_config or ParallelismConfig()
    plan = make_plan(pipe_or_adapter, parallelism, agreed(parallelism.attention_backend, attention_backend))
    caching = make_caching(pipe_or_adapter, plan, cache_config, calibrator_config, params_modifiers)
    check(plan, None if parallelism_config is None else world_size(), caching is not None)
    with fetched(plan.modules), ExitStack() as undo:  # closed if a step fails, so that nothing is left half done
        mesh = start_mesh(parallelism) if parallelism.world_size > 1 else None
        gang = Gang(mesh) if mesh is not None and parallelism.world_size > parallelism.dp_size else None
        whole = apply(plan, caching, mesh, gang, undo)
        refuse(plan, caching is not None, gang, undo)
        steps = undo.pop_all()
    for module in plan.modules:
        override(module, WHOLE, whole, steps)
        override(module, STATE, steps, steps)
    return pipe_or_adapter


def from_pretrained(
    model: str | os.PathLike[str],
    *,
    dtype: torch.dtype | dict[str, torch.dtype] | None = None,
    cache_config: DBCacheConfig | None = None,
    calibrator_config: CalibratorConfig | None = None,
    params_modifiers: ParamsModifier | Sequence[Any] | None = None,
    parallelism_config: ParallelismConfig | None = None,
    attention_backend: str | None = None,
    device: torch.device | str | None = None,
    lora: str | os.PathLike[str] | None = None,
    pipeline: Any = DiffusionPipeline,
    allow_pickle: bool = False,
    **kwargs: Any,
) -> Any:
    """Load a pipeline and enable it, reading of its weights only what this rank keeps, one at a time.

    Every rank calls this with the same arguments. Nothing is read before the layout and the files are checked, and
    where one rank fails all do.

    Args:
        model: a folder that ``save_pretrained`` wrote, or a hub id, which one rank of each machine downloads.
        dtype: of the weights; None as diffusers chooses.
        cache_config, calibrator_config, params_modifiers, parallelism_config, attention_backend: as ``enable_cache``
            takes them. With none of them the pipeline is only loaded. ``extra_parallel_modules`` are names, such as
            ``"text_encoder"``.
        device: where the weights go; None for this rank's GPU if there is one.
        lora: LoRA weights, a folder, a file or a hub id, loaded before the layout is applied.
        pipeline: the class of the pipeline; by default the one that was saved.
        allow_pickle: whether weights may be read from pickles, which run what they hold; every rank reads them whole.
        kwargs: what diffusers' ``from_pretrained`` takes besides: ``token``, ``revision``, ``variant``,
            ``quantization_config``, components and the like.

    Returns:
        The pipeline, of its own class.

    Raises:
        ValueError: what ``enable_cache`` refuses, or files that are missing, cut off or of another model.
    """
    _check_given(allow_pickle, **kwargs)
    asked = (cache_config, calibrator_config, params_modifiers, parallelism_config, attention_backend)
    target = torch.device(device or device_type())
    with _in_step(parallelism_config):
        with nothing_read():
            pipe = _load(model, pipeline, lora, allow_pickle, dtype=dtype, **kwargs)
            if any(asked):
                enable_cache(pipe, *asked)
        read_in(components(pipe).values(), target, show=leads())
    return pipe if target.type == "cpu" else pipe.to(target)


def _check_given(allow_pickle: bool, **given: Any) -> None:
    if "device_map" in given:
        raise ValueError("device_map: diffusers would place the weights itself; pass device, or a parallelism_config.")
    if given.get("use_safetensors") is False and not allow_pickle:
        raise ValueError("use_safetensors=False asks for pickles, which can run anything; pass allow_pickle=True too.")


def disable_cache(pipe_or_adapter: Pipeline) -> Pipeline:
    """Take back what ``enable_cache`` did, so that the pipeline is as before; every rank has to call it.

    Raises:
        ValueError: the pipeline is not enabled, or its weights are offloaded to where they cannot be reached.
    """
    pipe, models = unpack(pipe_or_adapter)
    # One that was replaced since may have been what knew, and another module is still shared.
    modules = {id(module): module for module in [*(model for model, _ in models), *components(pipe).values()]}
    enabled = [module for module in modules.values() if held(module, STATE) is not None]
    if not enabled:
        raise ValueError(f"this {type(models[0][0]).__name__} is not enabled; there is nothing to disable.")
    with fetched(enabled):
        for module in enabled:
            check_present(module)
        held(enabled[0], STATE).close()
    return pipe_or_adapter


def _load(model: Any, kind: Any, lora: Any, allow_pickle: bool, **kwargs: Any) -> Any:
    folder = fetch(model, {key: kwargs[key] for key in DOWNLOADS if key in kwargs})
    pipe = load_pipeline(kind, folder, allow_pickle, **kwargs)
    if lora is not None:
        with told_in_a_line(lora):
            pipe.load_lora_weights(lora)
    return pipe


def _in_step(parallelism: ParallelismConfig | None) -> AbstractContextManager[None]:
    """Where one rank of a replica fails, all do."""
    if parallelism is None or parallelism.world_size == parallelism.dp_size:
        return nullcontext()
    check_world(parallelism, world_size())
    return Gang(start_mesh(parallelism))


def kept_whole(pipe_or_adapter: Any) -> list[str]:
    """What every rank keeps whole of the text encoders an enabled pipeline shares: a line each, with the reason."""
    return list(held(unpack(pipe_or_adapter)[1][0][0], WHOLE, ()))
