"""Configurations in a YAML file, as keyword arguments of ``enable_cache``."""

import os
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, cast

from ditmesh.config.axes import AXES
from ditmesh.config.cache import CalibratorConfig, DBCacheConfig, calibrators
from ditmesh.config.parallelism import ParallelismConfig
from ditmesh.config.steps import steps_mask
from ditmesh.config.words import suggest

SECTIONS = ("cache_config", "calibrator_config", "parallelism_config", "attention_backend")
SIZES = tuple(f"{axis}_size" for axis in AXES)


def load_configs(path_or_dict: str | Path | Mapping[str, Any], world_size: int | None = None) -> dict[str, Any]:
    """Read a YAML file, or a dict of the same shape, into keyword arguments: ``enable_cache(pipe, **load_configs(x))``.

    The sections ``cache_config`` and ``parallelism_config`` hold the fields of ``DBCacheConfig`` and
    ``ParallelismConfig``. A calibrator is named inside ``cache_config`` (``enable_taylorseer: true``,
    ``taylorseer_order: 2``, ``enable_foca``, ``enable_dmd`` ...). ``steps_computation_mask`` may be the name of a
    policy if ``num_inference_steps`` is given, and one size may be ``auto``: what the others leave of ``world_size``
    ranks, or else of the ``WORLD_SIZE`` that torchrun sets.

    Raises:
        ValueError: a section, field or value that does not exist.
    """
    sections = path_or_dict if isinstance(path_or_dict, Mapping) else _read(Path(path_or_dict))
    for name in sections:
        if name not in SECTIONS:
            raise ValueError(f"there is no section {name!r}; {suggest(str(name), SECTIONS)}")
    configs: dict[str, Any] = {}
    if (cache := sections.get("cache_config")) is not None:
        configs["cache_config"], calibrator = _cache(dict(cache))
        if calibrator is not None:
            configs["calibrator_config"] = calibrator
    if (parallelism := sections.get("parallelism_config")) is not None:
        configs["parallelism_config"] = ParallelismConfig(**_fill_auto(dict(parallelism), world_size))
    if (kernel := sections.get("attention_backend")) is not None:
        configs["attention_backend"] = kernel
    return configs


def _read(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        sections: object = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(sections, Mapping):
        raise ValueError(f"{path} holds no sections; it needs one of {', '.join(SECTIONS)}.")
    return cast("Mapping[str, Any]", sections)


def _cache(given: dict[str, Any]) -> tuple[DBCacheConfig, CalibratorConfig | None]:
    calibrator = _calibrator(given)
    mask, steps = given.get("steps_computation_mask"), given.get("num_inference_steps")
    if isinstance(mask, str):
        if steps is None:
            raise ValueError(f"steps_computation_mask: {mask} is a policy, which needs num_inference_steps beside it.")
        given["steps_computation_mask"] = steps_mask(total_steps=steps, mask_policy=mask)
    return DBCacheConfig(**given), calibrator


def _calibrator(given: dict[str, Any]) -> CalibratorConfig | None:
    """Take the calibrator out of the fields of a cache section."""
    known = calibrators()
    enabled = [name for name in known if given.pop(f"enable_{name}", False)]
    shared = {
        "enable_encoder_calibrator": given.pop("enable_encoder_taylorseer", None),
        "calibrator_cache_type": given.pop("calibrator_cache_type", given.pop("taylorseer_cache_type", None)),
    }
    own = {name: given.pop(name) for name in list(given) if name.startswith(tuple(f"{kind}_" for kind in known))}
    if len(enabled) > 1:
        raise ValueError(f"a step has one forecast, and {' and '.join(enabled)} are enabled; choose one.")
    settings = own | {name: value for name, value in shared.items() if value is not None}
    if not enabled:
        if settings:
            raise ValueError(
                f"{next(iter(settings))} is for a calibrator, and none is enabled: enable_taylorseer: true."
            )
        return None
    return known[enabled[0]](**settings)


def _fill_auto(given: dict[str, Any], ranks: int | None) -> dict[str, Any]:
    auto = [name for name in SIZES if given.get(name) == "auto"]
    if not auto:
        return given
    if len(auto) > 1:
        raise ValueError(f"{' and '.join(auto)} are both auto; name the size of all but one.")
    world = int(os.environ.get("WORLD_SIZE", "1")) if ranks is None else ranks
    others = prod(given.get(name) or 1 for name in SIZES if name != auto[0])
    if world % others:
        raise ValueError(f"{auto[0]}: auto, but the other sizes take {others} ranks, which do not divide {world}.")
    return given | {auto[0]: world // others}
