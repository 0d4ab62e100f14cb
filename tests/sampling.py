"""Which cells of the large matrices of tests run: all of them, or a sample that holds whatever differs.

A test marked ``matrix`` has one case for each model and each of something else, a layout mostly. A sample of it has
every model, everything else, and every fact that sheets state (`Fused`, `Split` with a mask, ...) beside every layout
and every shape: at least one cell of each, and the seed draws which. Tests without the mark always run.
"""

import importlib
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

from ditmesh.spec import ModelSpec
from tests.cases import CASES


def facts(value: Any) -> Iterator[str]:
    """The kinds of facts that a sheet states: names of fields that are not empty, and styles of linears."""
    if is_dataclass(value):
        for name in (field.name for field in fields(value) if getattr(value, field.name)):
            yield f"{type(value).__name__}.{name}"
            yield from facts(getattr(value, name))
    elif isinstance(value, Mapping):
        yield from (style for style in value.values() if isinstance(style, str) and " " not in style)
        yield from (fact for x in value.values() for fact in facts(x))
    elif isinstance(value, tuple):
        yield from (fact for x in value for fact in facts(x))


@cache
def facts_of(case: str) -> frozenset[str]:
    """Those of the sheet that a case of ``tests/cases`` is for; none of anything else."""
    sheet = vars(importlib.import_module(f"ditmesh.models.{case}"))["SPEC"] if case in CASES else None
    return frozenset(facts(sheet)) if isinstance(sheet, ModelSpec) else frozenset()


def shows(cell: Mapping[str, object]) -> set[tuple[object, ...]]:
    """What a cell of these parameters is an example of; ``name`` is its model, or a "model:variant"."""
    model = str(cell["name"]).partition(":")[0]
    others = {(key, str(value)) for key, value in cell.items() if key != "name"}
    return {("name", model), tuple(sorted(others)), *((fact, *one) for fact in facts_of(model) for one in others)}


def sample(cells: Iterable[Mapping[str, object]], seed: int) -> list[int]:
    """The numbers of the cells that run: in an order that the seed draws, each that shows what none before it did."""
    drawn = list(enumerate(cells))
    random.Random(seed).shuffle(drawn)
    shown: set[tuple[object, ...]] = set()
    kept = []
    for number, cell in drawn:
        if not shows(cell) <= shown:
            shown |= shows(cell)
            kept.append(number)
    return sorted(kept)
