"""The one flow: what is done to a pipeline that is enabled, in the order it happens."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from diffusers.configuration_utils import ConfigMixin
from torch import nn
from transformers import PreTrainedModel

from ditmesh.cache.caching import Caching, halve
from ditmesh.checks import check_layout, check_stages
from ditmesh.config import CacheType, CalibratorConfig, DBCacheConfig, ParallelismConfig, ParamsModifier
from ditmesh.parallel.context.apply import apply_context_parallel
from ditmesh.parallel.context.sequence import ShardedSequence
from ditmesh.parallel.controlnet import check_own_blocks, tell_apart
from ditmesh.parallel.guidance import apply_guidance_parallel, watch_guidance
from ditmesh.parallel.pipefusion.overlap import apply_overlap
from ditmesh.parallel.pipefusion.patches import Patches
from ditmesh.parallel.pipefusion.stages import apply_pipefusion
from ditmesh.parallel.tensor.apply import apply_tensor_parallel
from ditmesh.parallel.text_encoder import apply_text_encoder_parallel
from ditmesh.parallel.vae.apply import apply_vae_parallel
from ditmesh.parallel.weights import Sharing
from ditmesh.pipeline import (
    Plan,
    components,
    controlnets,
    distinct,
    extra_modules,
    unpack,
)
from ditmesh.runtime.gang import Gang
from ditmesh.runtime.mesh import (
    Axis,
    Mesh,
    device_type,
    forward_mesh,
    replica_mesh,
)
from ditmesh.spec import ModelSpec
from ditmesh.upstream.afterwards import WEIGHTS, check_before, refuse_after, refuse_loads
from ditmesh.upstream.dispatcher import check_backend, local_backend, reroute
from ditmesh.upstream.modules import chain, check_present, expand, held
from ditmesh.upstream.offload import part_on_disk
from ditmesh.upstream.request import Requests
from ditmesh.upstream.saving import save_whole, shares, state_whole

STATE = "_ditmesh_undo"  # the attribute of a module that holds what takes its layout back


def make_plan(pipe_or_adapter: Any, parallelism: ParallelismConfig, kernel: str | None) -> Plan:
    pipe, transformers = unpack(pipe_or_adapter)
    extras = extra_modules(pipe, parallelism, transformers)
    nets = distinct(known for module in extras for known in controlnets(module))
    return Plan(pipe, transformers, nets, extras, parallelism, kernel)


def make_caching(
    owner: Any,
    plan: Plan,
    config: DBCacheConfig | None,
    calibrator: CalibratorConfig | None,
    modifiers: ParamsModifier | Sequence[Any] | None,
) -> Caching | None:
    if config is not None and config.cache_type is not CacheType.NONE:
        return Caching(owner, plan.transformers, config, calibrator, modifiers)
    if calibrator is not None or modifiers is not None:
        raise ValueError("calibrator_config and params_modifiers change a cache; pass cache_config=DBCacheConfig(...).")
    return None


def check(plan: Plan, world_size: int | None, cached: bool) -> None:
    for module in plan.modules:
        if held(module, STATE) is not None:
            raise ValueError(f"this {type(module).__name__} is enabled already; call ditmesh.disable_cache first.")
        check_before(module, plan.columns(module, cached))
    for model, spec in plan.models if world_size is not None else []:
        config = model.config if isinstance(model, ConfigMixin) else {}
        check_layout(plan.parallelism, spec.transformer, config, world_size)
    for model, spec in plan.transformers:
        check_stages(plan.parallelism, spec, len(chain(model, spec)), cached, not isinstance(plan.pipe, nn.Module))


def apply(plan: Plan, caching: Caching | None, mesh: Mesh | None, gang: Gang | None, undo: ExitStack) -> list[str]:
    """Every step, inside out; returns what every rank keeps whole."""
    sizes = plan.parallelism.sizes
    requests = _requests(plan, gang, undo)
    if mesh is not None and sizes["tp"] > 1:
        _shard_weights(plan, mesh, undo)
    sequences = _sequences(plan, mesh)
    _cut_sequences(plan, sequences, undo)
    sharing = Sharing(plan, mesh, undo) if mesh is not None and plan.parallelism.shard_weights else None
    if caching is not None:
        caching.apply(plan.parallelism, None if mesh is None else forward_mesh(mesh), requests, undo)
    if mesh is not None and sizes["pp"] > 1:
        _split_stages(plan, sequences, mesh, requests, undo)
    if sharing is not None:
        sharing.cut(requests)
    if mesh is not None and sizes["cfg"] > 1:
        _share_guidance(plan, mesh, requests, sharing, undo)
    if mesh is not None and gang is not None:
        return _share_extras(plan.extras, replica_mesh(mesh), undo)
    return []


def _requests(plan: Plan, gang: Gang | None, undo: ExitStack) -> Requests | None:
    """The requests of the pipeline, which its ranks go through in step; a transformer by itself has none."""
    if isinstance(plan.pipe, nn.Module):
        return None
    models, parts = [model for model, _ in plan.transformers], components(plan.pipe).values()
    return Requests(plan.pipe, models, parts, plan.extras, gang, undo)


def _shard_weights(plan: Plan, mesh: Mesh, undo: ExitStack) -> None:
    for model, spec in plan.controlnets:
        check_own_blocks(model, spec, [transformer for transformer, _ in plan.transformers])
    for model, spec in plan.models:
        apply_tensor_parallel(model, spec, mesh["tp"], undo).around(plan.pipe, undo)


def _sequences(plan: Plan, mesh: Mesh | None) -> list[ShardedSequence | None]:
    """What cuts the sequences of each model, over the ranks or in time as well; None if nothing does."""
    layout = plan.parallelism
    found: list[ShardedSequence | None] = [None] * len(plan.models)
    if mesh is not None and layout.ring_size * layout.ulysses_size > 1:
        found = [ShardedSequence(mesh) for _ in plan.models]
    if mesh is not None and layout.patches > 1:
        in_time = [Patches(mesh, patches=layout.patches, title=spec.title) for _, spec in plan.transformers]
        found[: len(in_time)] = in_time
    return found


def _cut_sequences(plan: Plan, sequences: Sequence[ShardedSequence | None], undo: ExitStack) -> None:
    if any(sequence is not None for sequence in sequences):
        for module in [*plan.extras, *components(plan.pipe).values()]:
            tell_apart(module, [transformer for transformer, _ in plan.transformers], undo)
    for (model, spec), sequence in zip(plan.models, sequences, strict=True):
        if sequence is not None:
            apply_context_parallel(model, spec, sequence, plan.kernel, undo)
        elif plan.kernel is not None:
            _use_kernel(model, spec, plan.kernel, undo)


def _use_kernel(model: nn.Module, spec: ModelSpec, kernel: str, undo: ExitStack) -> None:
    check_backend(kernel, 1, device_type())
    for pattern, fact in spec.attention.items():
        for _, attention in expand(model, pattern):
            undo.callback(reroute(attention, local_backend(kernel), names_backend=fact.names_backend))


def _split_stages(
    plan: Plan, sequences: Sequence[ShardedSequence | None], mesh: Mesh, requests: Requests | None, undo: ExitStack
) -> None:
    fusions = []
    for (model, spec), sequence in zip(plan.transformers, sequences, strict=False):
        patches = sequence if isinstance(sequence, Patches) else None
        fusions.append(apply_pipefusion(model, spec, mesh, patches, plan.parallelism.warmup_steps, requests, undo))
    # Where there are two of them, or two branches, there is more between a transformer and the scheduler.
    if requests is not None and len(fusions) == 1 and mesh["cfg"].size() == 1:
        apply_overlap(plan.pipe, fusions[0], plan.transformers[0][1], mesh, requests, undo)


def _share_guidance(
    plan: Plan, mesh: Mesh, requests: Requests | None, sharing: Sharing | None, undo: ExitStack
) -> None:
    idle = None if sharing is None else sharing.idle
    guidances = [apply_guidance_parallel(model, spec, mesh["cfg"], idle, undo) for model, spec in plan.transformers]
    for (model, _), guidance in zip(plan.transformers, guidances, strict=True):
        halve(model, lambda guidance=guidance: replica_mesh(mesh) if guidance.in_halves else None)
    if requests is not None:
        watch_guidance(requests, guidances)


def _share_extras(extras: list[nn.Module], mesh: Axis, undo: ExitStack) -> list[str]:
    whole: list[str] = []
    for module in extras:
        if isinstance(module, PreTrainedModel):
            whole += apply_text_encoder_parallel(module, mesh, undo)
        elif not controlnets(module):
            check_present(module)
            apply_vae_parallel(module, mesh, undo)
    for line in whole:
        logging.getLogger("ditmesh").info("every rank keeps the whole of %s", line)
    return whole


def refuse(plan: Plan, cached: bool, gang: Gang | None, undo: ExitStack) -> None:
    """Refuse from now on what would be wrong, and let what saves weights see whole ones."""
    done: dict[str, None] = {}
    for module in plan.modules:
        columns = plan.columns(module, cached)
        if "text encoder" in columns and not shares(module):
            continue  # it was kept whole
        if gang is not None and set(columns) & set(WEIGHTS):
            state_whole(module, gang, undo)
        refuse_after(module, columns, undo)
        done |= dict.fromkeys(columns)
        if plan.parallelism.world_size > 1:
            part_on_disk(module, undo)
            save_whole(module, [module], gang, undo)
    if not isinstance(plan.pipe, nn.Module):
        parts = components(plan.pipe)
        refuse_after(plan.pipe, list(done), undo)
        refuse_loads(plan.pipe, {x: part for x, part in parts.items() if isinstance(part, PreTrainedModel)}, undo)
        if plan.parallelism.world_size > 1:
            part_on_disk(plan.pipe, undo)
            save_whole(plan.pipe, list(dict.fromkeys([*plan.modules, *parts.values()])), gang, undo)


def agreed(first: str | None, second: str | None) -> str | None:
    if first and second and first != second:
        raise ValueError(
            f"attention_backend is {second!r} and parallelism_config.attention_backend {first!r}; pass one of them."
        )
    return first or second
