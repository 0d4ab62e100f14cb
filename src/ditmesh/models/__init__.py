"""The fact sheets, by the exact class name of the model they describe: every file of this folder is one."""

import importlib
import pkgutil

from ditmesh.spec import ModelSpec

_SHEETS = [importlib.import_module(f"{__name__}.{sheet.name}").SPEC for sheet in pkgutil.iter_modules(__path__)]
SPECS: dict[str, ModelSpec] = {spec.transformer: spec for spec in _SHEETS if not spec.controls}
CONTROLNETS: dict[str, ModelSpec] = {spec.transformer: spec for spec in _SHEETS if spec.controls}


def spec_of(model: str) -> ModelSpec:
    """The fact sheet of a transformer or ControlNet class, or a ValueError that names those there are."""
    known = SPECS | CONTROLNETS
    if model not in known:
        raise ValueError(f"ditmesh has no fact sheet for {model}; it knows {', '.join(sorted(known))}.")
    return known[model]
