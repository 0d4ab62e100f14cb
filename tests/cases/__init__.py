"""A tiny transformer for every sheet: each file here is the case of the sheet of its name.

A case has ``build(batch, side, text, masked, **variant)``, which returns a small random transformer and inputs for
``side = (height, width)`` image tokens and ``text`` text tokens (with a padding mask that differs by sample if
``masked``). ``MASKED = True`` says that the model takes such masks, ``VARIANTS`` names further configurations,
``FLOAT32_INSIDE = True`` says that the model itself computes in float32, whatever its dtype. Inputs may hold those of
calls that come before, in a list named ``earlier``.
"""

import importlib
import pkgutil
from types import ModuleType
from typing import Any

CASES: dict[str, ModuleType] = {
    case.name: importlib.import_module(f"{__name__}.{case.name}")
    for case in pkgutil.iter_modules(__path__)
    if case.name != "common"
}


def variants(name: str) -> dict[str, dict[str, Any]]:
    """The further configurations of a case, by name."""
    return vars(CASES[name]).get("VARIANTS", {})


def masked(name: str) -> bool:
    """Whether a case takes padding masks."""
    return vars(CASES[name]).get("MASKED", False)


def float32_inside(name: str) -> bool:
    """Whether a case, or the case of a variant, computes in float32 whatever its dtype."""
    return vars(CASES[name.partition(":")[0]]).get("FLOAT32_INSIDE", False)
