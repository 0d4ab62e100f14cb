"""The fact sheets, by the exact class name of the transformer they describe: every file of this folder is one."""

import importlib
import pkgutil

from ditmesh.spec import ModelSpec

_SHEETS = [importlib.import_module(f"{__name__}.{sheet.name}") for sheet in pkgutil.iter_modules(__path__)]
SPECS: dict[str, ModelSpec] = {sheet.SPEC.transformer: sheet.SPEC for sheet in _SHEETS}


def spec_of(transformer: str) -> ModelSpec:
    """The fact sheet of a transformer class, or a ValueError that names those there are."""
    if transformer not in SPECS:
        raise ValueError(f"ditmesh has no fact sheet for {transformer}; it knows {', '.join(sorted(SPECS))}.")
    return SPECS[transformer]
