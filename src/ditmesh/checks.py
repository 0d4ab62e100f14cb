"""Refuse a layout that a model cannot run, before anything is loaded."""

from collections.abc import Mapping
from typing import Any

from ditmesh.config import ParallelismConfig
from ditmesh.sheets import spec_of
from ditmesh.spec import ModelSpec


def check_layout(
    parallelism: ParallelismConfig, transformer: str, config: Mapping[str, Any], world_size: int | None = None
) -> None:
    """Check a layout against a transformer's facts, and against the number of ranks if that is known.

    Args:
        parallelism: the layout.
        transformer: the transformer's class name.
        config: its configuration, as its ``config.json`` has it.
        world_size: the number of ranks.

    Raises:
        ValueError: the layout cannot run; it says why and what would.
    """
    spec = spec_of(transformer)
    # A config.json may leave defaults out; the model's own configuration, checked when it is there, does not.
    for key, values in spec.covers.items():
        if config.get(key, values[0]) not in values:
            raise ValueError(
                f"{spec.title}: the fact sheet covers {key} {_either([repr(value) for value in values])}, and this "
                f"model has {config[key]!r}; run it on one device."
            )
    _check_heads(parallelism, spec.title, spec.count_heads(config))
    kv_heads = config.get(spec.kv_heads)
    if kv_heads is not None and kv_heads % parallelism.tp_size:
        raise ValueError(
            f"tp_size={parallelism.tp_size} does not divide {spec.title}'s {kv_heads} key and value heads; use a size "
            f"that does, or cut the sequence instead: ring_size={parallelism.tp_size}."
        )
    if world_size is not None:
        check_world(parallelism, world_size)


def check_world(parallelism: ParallelismConfig, world_size: int) -> None:
    """Check a layout against the number of ranks.

    Raises:
        ValueError: it needs another number.
    """
    if parallelism.world_size != world_size:
        raise ValueError(
            f"layout {parallelism} needs {parallelism.world_size} ranks and this job has {world_size}; start it with "
            f"torchrun --nproc_per_node={parallelism.world_size}, or choose sizes whose product is {world_size}."
        )


def check_stages(parallelism: ParallelismConfig, spec: ModelSpec, blocks: int, cached: bool, in_pipeline: bool) -> None:
    """Check that a transformer's blocks can be shared out to the stages of a layout.

    Args:
        parallelism: the layout.
        spec: the transformer's fact sheet.
        blocks: how many blocks it has that may run elsewhere.
        cached: whether its steps are to be cached.
        in_pipeline: whether a pipeline runs it.

    Raises:
        ValueError: they cannot.
    """
    stages = parallelism.pp_size
    if stages == 1:
        return
    instead = f"use ulysses_size={stages} or tp_size={stages} instead."
    for one in spec.blocks:
        if one.reaches_back is not None and one.between:
            raise ValueError(
                f"pp_size={stages}: blocks of {spec.title} take what earlier ones returned, which may have changed "
                f"since ({one.between}), and a stage is sent what they returned; {instead}"
            )
    if stages > blocks:
        why = "; ".join(f"{one.path}: {one.apart}" for one in spec.blocks if one.apart)
        raise ValueError(
            f"pp_size={stages} is more than {spec.title}'s {blocks} blocks that may run elsewhere"
            f"{f' ({why})' if why else ''}; {f'use at most {blocks}, or ' if blocks else ''}{instead}"
        )
    patches = f"num_pipeline_patch={parallelism.patches}"
    if parallelism.patches > 1 and not in_pipeline:
        raise ValueError(
            f"{patches}: patches remember keys and values of the step before, and a transformer alone cannot tell "
            f"where a request begins; enable its pipeline, or pass num_pipeline_patch=1 to run every step whole."
        )
    if cached:
        raise ValueError(
            f"pp_size={stages} with a cache: a step that leaves out blocks leaves stages idle, and is not built; "
            f"leave cache_config out, or {instead}"
        )


def _check_heads(parallelism: ParallelismConfig, title: str, heads: int) -> None:
    tp, ulysses = parallelism.tp_size, parallelism.ulysses_size
    if heads % tp:
        divisors = [str(size) for size in range(1, heads + 1) if heads % size == 0]
        raise ValueError(
            f"tp_size={tp} does not divide {title}'s {heads} attention heads; "
            f"use {_either(divisors)}, or cut the sequence instead: ring_size={tp}."
        )
    if ulysses > heads // tp:
        left = f"{heads // tp} attention heads" + (f" that tp_size={tp} leaves a rank" if tp > 1 else "")
        raise ValueError(
            f"ulysses_size={ulysses} is more than {title}'s {left}; "
            f"use at most {heads // tp}, or pass keys and values around instead: ring_size={ulysses}."
        )


def _either(choices: list[str]) -> str:
    return choices[0] if len(choices) == 1 else f"{', '.join(choices[:-1])} or {choices[-1]}"
