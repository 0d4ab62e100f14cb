"""The caches of one pipeline: a call to enable them, and what a user asks of them afterwards."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from torch import nn

from ditmesh.cache.dbcache import DBCache, apply_dbcache
from ditmesh.cache.report import CacheStats, collect, table, tag
from ditmesh.config import CalibratorConfig, DBCacheConfig, ParallelismConfig, ParamsModifier
from ditmesh.pipeline import BlockAdapter, components
from ditmesh.runtime.mesh import Axis
from ditmesh.spec import ModelSpec
from ditmesh.upstream.modules import held, override, unwrapped
from ditmesh.upstream.request import Requests

CACHE = "_ditmesh_cache"  # the attribute of a transformer that holds its cache
Modifiers = ParamsModifier | Sequence[Any] | None


class Caching:
    """What ``enable_cache`` was asked to cache, checked.

    Raises:
        ValueError: modifiers for another number of transformers or of lists of blocks.
    """

    def __init__(
        self,
        owner: Any,
        transformers: Sequence[tuple[nn.Module, ModelSpec]],
        config: DBCacheConfig,
        calibrator: CalibratorConfig | None,
        modifiers: Modifiers,
    ):
        self.pipe = owner
        if isinstance(owner, BlockAdapter):
            self.pipe, modifiers = owner.pipe, modifiers or owner.params_modifiers
            if owner.has_separate_cfg and config.enable_separate_cfg is None:
                config = config.update(enable_separate_cfg=True)
        self.transformers, self.options = transformers, (config, calibrator)
        self.modifiers = _by_transformer(modifiers, len(transformers))

    def apply(
        self, parallelism: ParallelismConfig, mesh: Axis | None, requests: Requests | None, undo: ExitStack
    ) -> None:
        """Cache the transformers' steps; ``mesh``: the ranks of the layout that share a forward, as one axis."""
        for (model, spec), modifiers in zip(self.transformers, self.modifiers, strict=True):
            cache = apply_dbcache(model, spec, self.options, modifiers, parallelism, mesh, requests, undo)
            override(model, CACHE, cache, undo)


def halve(model: nn.Module, mesh: Callable[[], Axis | None]) -> None:
    """Let the cache of a transformer ask for the ranks that share a batch, while each runs half of it."""
    cache: DBCache | None = held(model, CACHE)
    if cache is not None:
        cache.session.halves_mesh = mesh


def _by_transformer(modifiers: Modifiers, count: int) -> list[Sequence[ParamsModifier]]:
    """A list of modifiers for each transformer, itself a list with one for each list of blocks."""
    if modifiers is None:
        return [[]] * count
    if isinstance(modifiers, ParamsModifier):
        return [[modifiers]] * count
    nested = [not isinstance(entry, ParamsModifier) for entry in modifiers]
    if count == 1 and not any(nested):
        return [modifiers]
    if len(modifiers) != count:
        raise ValueError(f"params_modifiers has {len(modifiers)} entries for {count} transformers; give one for each.")
    return [entry if own else [entry] for entry, own in zip(modifiers, nested, strict=True)]


def summary(pipe_or_adapter: object, details: bool = False, logging: bool = True) -> list[CacheStats]:
    """What the cache did in the last request, for each chain of blocks and branch of guidance.

    Args:
        pipe_or_adapter: what ``enable_cache`` was given, or one of its transformers.
        details: which steps were cached and the difference found in each, too.
        logging: print it as a table.

    Raises:
        ValueError: nothing is cached here.
    """
    stats = [one for cache in _caches(pipe_or_adapter) for one in collect(cache)]
    if logging:
        print(table(stats, details))
    return stats


def strify(subject: object) -> str:
    """A name for files and logs, such as ``DBCache_F1B0_W8I1M0MC3_R0.24_CFG0_T0O0_Ulysses4_S15``.

    Args:
        subject: what ``enable_cache`` was given, one of the configs, or keyword arguments of ``enable_cache``. After a
            request ``S15`` is how many steps it cached.
    """
    if isinstance(subject, DBCacheConfig):
        return tag(subject, None, None)
    if isinstance(subject, ParallelismConfig):
        return tag(None, None, subject)
    if isinstance(subject, Mapping):
        return tag(*(subject.get(name) for name in ("cache_config", "calibrator_config", "parallelism_config")))
    first = _caches(subject)[0]
    stats = collect(first)
    steps = f"_S{max(len(one.cached_steps) for one in stats)}" if stats else ""
    return tag(*first.options, first.parallelism) + steps


def refresh_context(transformer: nn.Module, **changes: Any) -> None:
    """Begin another request of a transformer that is called by itself, with other settings if some are given.

    Args:
        transformer: one that is cached.
        changes: ``cache_config``, ``calibrator_config``, or single fields of ``DBCacheConfig``.

    Raises:
        ValueError: it is not cached, or a field that does not exist.
    """
    for cache in _caches(transformer):
        config, calibrator = cache.options
        config = changes.pop("cache_config", config)
        calibrator = changes.pop("calibrator_config", calibrator)
        cache.configure((config.update(**changes), calibrator))


def _caches(pipe_or_adapter: object) -> list[DBCache]:
    """The caches of a pipeline, an adapter or a transformer."""
    owner: Any = pipe_or_adapter.transformer if isinstance(pipe_or_adapter, BlockAdapter) else pipe_or_adapter
    parts = [unwrapped(owner)] if isinstance(owner, nn.Module) else list(components(owner).values())
    found = [cache for part in parts if (cache := held(part, CACHE)) is not None]
    if not found:
        raise ValueError(f"this {type(pipe_or_adapter).__name__} has no cache; call ditmesh.enable_cache first.")
    return found
