"""What to cache: the flags, over the file by --config or over the example's own settings and the defaults here."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ditmesh import (
    CacheType,
    CalibratorConfig,
    DBCacheConfig,
    DMDCalibratorConfig,
    FoCaCalibratorConfig,
    ParamsModifier,
    TaylorSeerCalibratorConfig,
    load_configs,
    steps_mask,
)
from ditmesh.cli.examples.example import CacheSettings, Example
from ditmesh.cli.options import Options

DEFAULTS = {
    "Fn_compute_blocks": 1,
    "residual_diff_threshold": 0.12,
    "max_warmup_steps": 8,
    "max_continuous_cached_steps": 3,
}
# The field of the options, and what it has where it is not given -> its flag.
FIELDS = {
    "residual_diff_threshold": "--rdt",
    "Fn_compute_blocks": "--Fn",
    "Bn_compute_blocks": "--Bn",
    "max_warmup_steps": "--ws",
    "warmup_interval": "--wi",
    "max_cached_steps": "--mc",
    "max_continuous_cached_steps": "--mcc",
}
MASKS = {"steps_mask": "--steps-mask", "mask_policy": "--scm"}
CALIBRATORS: dict[str, type[CalibratorConfig]] = {
    "taylorseer": TaylorSeerCalibratorConfig,
    "foca": FoCaCalibratorConfig,
    "dmd": DMDCalibratorConfig,
}
CALIBRATOR_FIELDS = {
    "taylorseer_order": "--taylorseer-order",
    "dmd_history": "--dmd-history",
    "dmd_svd_precision": "--dmd-svd",
}
POLICIES = {"s": "slow", "m": "medium", "f": "fast", "u": "ultra"}


@dataclass(frozen=True)
class Cached:
    """What ``enable_cache`` is told of a cache.

    Attributes:
        modifiers: for each transformer, and of it for each list of blocks; none if they are all alike.
    """

    config: DBCacheConfig
    calibrator: CalibratorConfig | None = None
    modifiers: tuple[tuple[ParamsModifier, ...], ...] = ()

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of ``enable_cache``."""
        return {
            "cache_config": self.config,
            "calibrator_config": self.calibrator,
            "params_modifiers": [list(entry) for entry in self.modifiers] or None,
        }


def read_file(path: Path | None, world_size: int) -> dict[str, Any]:
    """What --config says, as keyword arguments of ``enable_cache``; a size of ``auto`` is what is left of the ranks.

    Raises:
        ValueError: it cannot be read, or asks for what does not exist.
    """
    try:
        return {} if path is None else load_configs(path, world_size=world_size)
    except ValueError as error:
        raise ValueError(f"--config {path}: {error}") from error


def choose_cache(
    options: Options, file: Mapping[str, Any], example: Example, transformers: int, steps: int | None
) -> Cached | None:
    """The cache that was asked for; None for none.

    Args:
        file: what --config says.
        transformers: how many the pipeline has.
        steps: of the call, if it has a single number of them.

    Raises:
        ValueError: flags for a cache that nobody asked for, or that do not go together.
    """
    own: DBCacheConfig | None = file.get("cache_config")
    if own is not None and own.cache_type is CacheType.NONE:
        own = None
    if not options.cache and own is None:
        _refuse_idle(options)
        return None
    fields = {name: vars(options)[name] for name in FIELDS if vars(options)[name] is not None}
    fields |= _mask(options, steps)
    calibrator = _calibrator(options) or file.get("calibrator_config")
    if own is not None:
        return Cached(own.update(**fields), calibrator)
    settings = example.cache
    asked = settings.fields.get(steps or 0, next(iter(settings.fields.values()), {}))
    config = DBCacheConfig(**DEFAULTS | dict(asked) | fields)
    modifiers = _modifiers(settings, transformers, config, fields)
    if not modifiers and "max_warmup_steps" not in fields:
        _refuse_warmup_alone(config, example, steps)
    return Cached(config, calibrator, modifiers)


def _refuse_idle(options: Options) -> None:
    values = vars(options)
    for name, flag in (FIELDS | MASKS | CALIBRATOR_FIELDS | {"cache_summary": "--summary"}).items():
        if values[name] is not None and values[name] is not False:
            raise ValueError(f"{flag} is for a cache, and nothing is cached; add --cache.")
    for name in CALIBRATORS:
        if values[name]:
            raise ValueError(f"--{name} extrapolates what a cache leaves out, and nothing is cached; add --cache.")


def _mask(options: Options, steps: int | None) -> dict[str, Any]:
    """The steps that are computed in any case, as a field."""
    if not options.steps_mask and options.mask_policy is None:
        return {}
    flag = "--steps-mask" if options.mask_policy is None else "--scm"
    if steps is None:
        raise ValueError(f"{flag} is for a number of steps, and this call has no single one; leave it out.")
    policy = options.mask_policy or "medium"
    try:
        return {"steps_computation_mask": steps_mask(total_steps=steps, mask_policy=POLICIES.get(policy, policy))}
    except ValueError as error:
        raise ValueError(f"{flag}: {error}") from error


def _calibrator(options: Options) -> CalibratorConfig | None:
    """The one way to extrapolate that was asked for."""
    values = vars(options)
    asked = [name for name in CALIBRATORS if values[name]]
    if len(asked) > 1:
        flags = " and ".join(f"--{name}" for name in asked)
        raise ValueError(f"a cached step has one forecast, and {flags} were asked for; choose one of them.")
    given = {name: values[name] for name in CALIBRATOR_FIELDS if values[name] is not None}
    for name in given:
        needed = name.partition("_")[0]
        if needed not in asked:
            raise ValueError(f"{CALIBRATOR_FIELDS[name]} is for --{needed}, which was not asked for; add --{needed}.")
    return CALIBRATORS[asked[0]](**given) if asked else None


def _modifiers(
    settings: CacheSettings, transformers: int, config: DBCacheConfig, asked: Mapping[str, Any]
) -> tuple[tuple[ParamsModifier, ...], ...]:
    """What the example has of its own for each transformer or list of blocks, but for what the user asked."""
    if transformers > 1 and len(settings.transformers) == transformers:
        own = [{name: x for name, x in fields.items() if name not in asked} for fields in settings.transformers]
        return tuple((ParamsModifier(DBCacheConfig(**fields)),) for fields in own) if any(own) else ()
    if transformers == 1 and settings.factors:
        thresholds = [config.residual_diff_threshold * factor for factor in settings.factors]
        return (tuple(ParamsModifier(DBCacheConfig(residual_diff_threshold=x)) for x in thresholds),)
    return ()


def _refuse_warmup_alone(config: DBCacheConfig, example: Example, steps: int | None) -> None:
    every_step = config.warmup_interval == 1 and config.steps_computation_mask is None
    if steps is not None and every_step and config.max_warmup_steps >= steps:
        raise ValueError(
            f"--cache: the first {config.max_warmup_steps} steps are always computed, and {example.name} is drawn in "
            f"{steps}, so that none would be cached; add --ws {max(1, steps // 2)}."
        )
