"""What the flags of `ditmesh generate`, and the file by --config, say of the cache."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ditmesh import CacheType, CalibratorConfig, DBCacheConfig, load_configs, steps_mask
from ditmesh.cli.flags import flag_of, given_flags
from ditmesh.cli.generate.options import Options
from ditmesh.config.cache import CALIBRATORS
from ditmesh.job.caching import Cached, choose_cache
from ditmesh.job.call import given
from ditmesh.job.example import Example
from ditmesh.job.numbers import check_numbers

# Fields of the cache's configuration and of a calibrator's, by what they are called in both; each has a flag.
NAMES = [f.name for f in fields(Options)]
FIELDS = [f.name for f in fields(DBCacheConfig) if f.name in NAMES]
CALIBRATOR_FIELDS = [name for name in NAMES if name.partition("_")[0] in CALIBRATORS and name not in CALIBRATORS]
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
    values = asdict(options)
    asked = given(**{name: values[name] for name in FIELDS}) | _mask(options, steps)
    check_numbers(asked)
    calibrator = _calibrator(options) or file.get("calibrator_config")
    cure = f"add --ws {steps // 2}" if steps and steps > 1 else "leave --cache out"
    return choose_cache(example, transformers, steps, asked, calibrator, own, "--cache", cure)


def _refuse_idle(options: Options) -> None:
    for flag in given_flags(options, *FIELDS, *CALIBRATOR_FIELDS, "steps_mask", "mask_policy", "cache_summary"):
        raise ValueError(f"{flag} is for a cache, and nothing is cached; add --cache.")
    for flag in given_flags(options, *CALIBRATORS):
        raise ValueError(f"{flag} extrapolates what a cache leaves out, and nothing is cached; add --cache.")


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
    values = asdict(options)
    asked = [name for name in CALIBRATORS if values[name]]
    if len(asked) > 1:
        flags = " and ".join(f"--{name}" for name in asked)
        raise ValueError(f"a cached step has one forecast, and {flags} were asked for; choose one of them.")
    own = given(**{name: values[name] for name in CALIBRATOR_FIELDS})
    for name in own:
        if (needed := name.partition("_")[0]) not in asked:
            raise ValueError(f"{flag_of(options, name)} is for --{needed}, which was not asked for; add --{needed}.")
    return CALIBRATORS[asked[0]](**own) if asked else None
