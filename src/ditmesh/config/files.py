"""Configurations in a YAML file, as keyword arguments of ``enable_cache``."""

import os
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from types import UnionType
from typing import Any, cast, get_args, get_origin, get_type_hints

from ditmesh.config.axes import AXES
from ditmesh.config.cache import CacheType, CalibratorConfig, DBCacheConfig, calibrators
from ditmesh.config.parallelism import ParallelismConfig
from ditmesh.config.steps import steps_mask
from ditmesh.config.words import suggest

SECTIONS = ("cache_config", "calibrator_config", "parallelism_config", "attention_backend")
SIZES = tuple(f"{axis}_size" for axis in AXES)
# The types of fields, as words for a reader, and what stands for them in a file. What is not here fits anything.
KINDS: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a name",
    CacheType: "a name",
    tuple: "a list",
    Mapping: "a section of fields",
    type(None): "null",
}
MEANS: Mapping[type, Sequence[Any]] = {int: (int, float), str: (str, CacheType), list: (tuple,), dict: (Mapping,)}


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
    for name, section in sections.items():
        if name in SECTIONS:
            _check_types(name, section)
        else:
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


def _check_types(section: str, given: object) -> None:
    """Refuse a value of another type than its field's; a field that does not exist is refused later."""
    if given is None or section == "attention_backend":
        if not isinstance(given, str | None):
            raise ValueError(f"{section}: {given!r} is no name of a kernel; write {section}: native.")
        return
    fields = cast("Mapping[object, object]", given)
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in fields):
        raise ValueError(f"{section}: {given!r} has no fields; write each as name: value, on a line of its own.")
    known = calibrators()
    types: dict[str, Any] = {f"enable_{name}": bool for name in known}
    kinds = [ParallelismConfig] if section.startswith("parallel") else [*known.values(), DBCacheConfig]
    for hints in map(get_type_hints, kinds):
        types |= hints
    types |= dict.fromkeys(SIZES, int | str | None) | {"steps_computation_mask": tuple[int, ...] | str | None}
    for name, value in fields.items():
        asked = types.get(str(name), Any)
        fit = [get_origin(one) or one for one in (get_args(asked) if isinstance(asked, UnionType) else (asked,))]
        if KINDS.keys() >= set(fit) and not any(kind in fit for kind in MEANS.get(type(value), (type(value),))):
            what = " or ".join(dict.fromkeys(KINDS[kind] for kind in fit))
            raise ValueError(f"{section}: {name} is {value!r}, where {what} belongs.")
        if name == "parallel_kwargs":
            _check_types("parallel_kwargs", value)


def _read(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        sections: object = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}.") from error
    except (yaml.YAMLError, RecursionError, UnicodeDecodeError) as error:
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
