"""Refuse a layout that a model cannot run, before anything is loaded."""

from collections.abc import Mapping
from typing import Any

from ditmesh.config import ParallelismConfig
from ditmesh.models import spec_of


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
    if parallelism.pp_size > 1:
        raise ValueError(
            f"pp_size={parallelism.pp_size}: pipeline parallelism is not built yet; "
            f"use tp_size, ulysses_size or ring_size."
        )
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
    if world_size is not None and parallelism.world_size != world_size:
        raise ValueError(
            f"layout {parallelism} needs {parallelism.world_size} ranks and this job has {world_size}; start it with "
            f"torchrun --nproc_per_node={parallelism.world_size}, or choose sizes whose product is {world_size}."
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
