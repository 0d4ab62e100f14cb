"""What to cache: what was asked, over a configuration of the user's own or over the example's settings and defaults."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ditmesh import CalibratorConfig, DBCacheConfig, ParamsModifier
from ditmesh.job.example import CacheSettings, Example

DEFAULTS: Mapping[str, Any] = {
    "Fn_compute_blocks": 1,
    "residual_diff_threshold": 0.12,
    "max_warmup_steps": 8,
    "max_continuous_cached_steps": 3,
}


@dataclass(frozen=True)
class Cached:
    """What ``enable_cache`` is told of a cache.

    Attributes:
        modifiers: for each transformer, and of it for each list of blocks; none if they are all alike.
    """

    config: DBCacheConfig
    calibrator: CalibratorConfig | None = None
    modifiers: tuple[tuple[ParamsModifier, ...], ...] = ()

    @property
    def tag(self) -> str:
        """The cache in a word, as it is in names of files."""
        from ditmesh import strify  # with it comes torch

        return strify({"cache_config": self.config, "calibrator_config": self.calibrator})

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of ``enable_cache``."""
        return {
            "cache_config": self.config,
            "calibrator_config": self.calibrator,
            "params_modifiers": [list(entry) for entry in self.modifiers] or None,
        }


def choose_cache(
    example: Example,
    transformers: int,
    steps: int | None,
    fields: Mapping[str, Any] | None = None,
    calibrator: CalibratorConfig | None = None,
    own: DBCacheConfig | None = None,
    flag: str = "cache_config",
    cure: str = "draw it in more steps, or leave the cache out",
) -> Cached:
    """The cache of a job.

    Args:
        transformers: how many the pipeline has.
        steps: of the call, if it has a single number of them.
        fields: those of DBCacheConfig that the user named.
        own: the whole configuration, if the user wrote one.
        flag: what the user says it by, and ``cure`` what helps if it would do nothing but warm up.

    Raises:
        ValueError: that is so, though nobody asked for such a warm-up.
    """
    fields = fields or {}
    if own is not None:
        return Cached(own.update(**fields), calibrator)
    settings = example.cache
    first = next(iter(settings.fields.values()), dict[str, Any]())
    config = DBCacheConfig(**{**DEFAULTS, **settings.fields.get(steps or 0, first), **fields})
    modifiers = _modifiers(settings, transformers, config, fields)
    every_step = config.warmup_interval == 1 and config.steps_computation_mask is None
    by_itself = not modifiers and "max_warmup_steps" not in fields
    if by_itself and every_step and config.max_warmup_steps >= (steps or math.inf):
        raise ValueError(
            f"{flag}: the first {config.max_warmup_steps} steps are always computed, and {example.name} is drawn in "
            f"{steps}, so that none would be cached; {cure}."
        )
    return Cached(config, calibrator, modifiers)


def _modifiers(
    settings: CacheSettings, transformers: int, config: DBCacheConfig, asked: Mapping[str, object]
) -> tuple[tuple[ParamsModifier, ...], ...]:
    """What the example has of its own for each transformer or list of blocks, but for what the user asked."""
    if transformers > 1 and len(settings.transformers) == transformers:
        own = [{name: x for name, x in fields.items() if name not in asked} for fields in settings.transformers]
        return tuple((ParamsModifier(DBCacheConfig(**fields)),) for fields in own) if any(own) else ()
    if transformers == 1 and settings.factors:
        thresholds = [config.residual_diff_threshold * factor for factor in settings.factors]
        return (tuple(ParamsModifier(DBCacheConfig(residual_diff_threshold=x)) for x in thresholds),)
    return ()
