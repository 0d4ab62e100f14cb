"""What the flags of `ditmesh generate`, and the file by --config, say of the cache."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ditmesh import (
    CacheType,
    CalibratorConfig,
    DBCacheConfig,
    DMDCalibratorConfig,
    FoCaCalibratorConfig,
    TaylorSeerCalibratorConfig,
    load_configs,
    steps_mask,
)
from ditmesh.cli.generate.options import Options
from ditmesh.job.caching import Cached, choose_cache
from ditmesh.job.example import Example
from ditmesh.job.numbers import check_numbers

# The field of the options -> its flag.
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


def read_file(path: Path | None, world_size: int) -> dict[str, Any]:
    """What --config says, as keyword arguments of ``enable_cache``; a size of ``auto`` is what is left of the ranks.

    Raises:
        ValueError: it cannot be read, or asks for what does not exist.
    """
    try:
        return {} if path is None else load_configs(path, world_size=world_size)
    except ValueError as error:
        raise ValueError(f"--config {path}: {error}") from error


def asked_cache(
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
    values = vars(options)
    check_numbers({"residual_diff_threshold": values["residual_diff_threshold"]})
    fields = {name: values[name] for name in FIELDS if values[name] is not None} | _mask(options, steps)
    calibrator = _calibrator(options) or file.get("calibrator_config")
    cure = f"add --ws {steps // 2}" if steps and steps > 1 else "leave --cache out"
    return choose_cache(example, transformers, steps, fields, calibrator, own, "--cache", cure)


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
    own = {name: values[name] for name in CALIBRATOR_FIELDS if values[name] is not None}
    for name in own:
        needed = name.partition("_")[0]
        if needed not in asked:
            raise ValueError(f"{CALIBRATOR_FIELDS[name]} is for --{needed}, which was not asked for; add --{needed}.")
    return CALIBRATORS[asked[0]](**own) if asked else None
