"""Find the fact sheet of a class: one of ours, one that was registered, or one that another package offers."""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from ditmesh.models import CONTROLNETS, SPECS
from ditmesh.spec import Count, Cut, Fused, Gather, Heads, Length, ModelSpec, PerHead, Sharded, Split

GROUP = "ditmesh.models"  # an entry point there is named as the class: BrickTransformer2DModel = bricks.sheet:SPEC
ATOM = r"(?:\w+|\*|-1)"
PATH = rf"{ATOM}(?:\.{ATOM})*"
GLOB = re.compile(rf"(?:{PATH}(?:\|{PATH})*\??)?")
LINEAR = ("colwise", "colwise_gather_output", "rowwise")
STYLES = (*LINEAR, "heads", "norm_across_heads")


def register(spec: ModelSpec, replace: bool = False) -> None:
    """Make a model known by its fact sheet, in this process; every rank has to.

    Args:
        replace: it may take the place of a sheet that there is.

    Raises:
        ValueError: the sheet is wrong in itself, or the class has one already.
    """
    check_sheet(spec)
    known = CONTROLNETS if spec.controls else SPECS
    if not replace and known.get(spec.transformer, spec) != spec:
        raise ValueError(
            f"{spec.transformer} has a fact sheet already ({known[spec.transformer].title}); pass replace=True to "
            f"register another in its place."
        )
    known[spec.transformer] = spec


def find_sheet(model: str) -> ModelSpec | None:
    """The sheet of a class by its name, or None. One that another package offers is loaded when it is asked for.

    Raises:
        ValueError: a package offers one that cannot be loaded.
    """
    if model not in SPECS and model not in CONTROLNETS and model in offered():
        register(_load(model, offered()[model]))
    return SPECS.get(model) or CONTROLNETS.get(model)


def spec_of(model: str) -> ModelSpec:
    """The sheet of a transformer or ControlNet class, or a ValueError that names those there are."""
    found = find_sheet(model)
    if found is None:
        known = sorted({*SPECS, *CONTROLNETS, *offered()})
        raise ValueError(f"ditmesh has no fact sheet for {model}; it knows {', '.join(known)}.")
    return found


@cache
def offered() -> dict[str, EntryPoint]:
    """What other packages offer, by class; loaded when it is asked for."""
    return {point.name: point for point in entry_points(group=GROUP)}


def _load(model: str, point: EntryPoint) -> ModelSpec:
    package = point.dist.name if point.dist is not None else point.module
    try:
        spec = point.load()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"the package {package} offers a fact sheet of {model}, {point.value}, which cannot be loaded: {error}"
        ) from error
    if not isinstance(spec, ModelSpec) or spec.transformer != model:
        raise ValueError(
            f"the package {package} offers {point.value} as the fact sheet of {model}, and it is none of that class."
        )
    return spec


def check_sheet(spec: ModelSpec) -> None:
    """Check a sheet as far as that can be done without its model; whether names exist is seen when it is applied.

    Raises:
        ValueError: a glob, a style or a stream is wrong; it says which.
    """
    for where, wrong in _wrong(spec):
        raise ValueError(f"the fact sheet of {spec.transformer}: {where} {wrong}")


def _wrong(spec: ModelSpec) -> Iterator[tuple[str, str]]:
    """What is wrong, and where."""
    tables: Mapping[str, Iterable[str]] = {
        "blocks": [one.path for one in spec.blocks],
        "tp_plan": spec.tp_plan,
        "cp_plan": spec.cp_plan,
        "attention": spec.attention,
        "replicated": spec.replicated,
    }
    for table, globs in tables.items():
        for glob in globs:
            if not GLOB.fullmatch(glob):
                yield f"{table} names {glob!r},", "which is no glob: names, '*' and '-1' joined by '.', 'a|b', 'a?'."
    for glob, style in spec.tp_plan.items():
        if isinstance(style, Fused):
            if style.style not in LINEAR or not {*style.parts} <= {"heads", "rest"}:
                yield f"tp_plan[{glob!r}] is {style},", f"and Fused takes {', '.join(LINEAR)}; parts 'heads', 'rest'."
        elif not isinstance(style, Heads | PerHead | Sharded) and style not in STYLES:
            yield f"tp_plan[{glob!r}] is {style!r};", f"use {', '.join(STYLES)}, or a fact of ditmesh.spec."
    cuts = list(_cuts(spec))
    made = {name for cut in cuts if isinstance(cut, Split | Length) for name in _names(cut.stream)}
    for cut in cuts:
        if isinstance(cut, Gather | Count):
            for name in _names(cut.stream) - made:
                yield f"cp_plan's {cut} is of the stream {name!r},", f"which no Split cuts; {_streams(made)}"
    for glob, fact in spec.attention.items():
        for name in {one.removesuffix("?") for one in (*fact.streams, *(fact.keys or ()))} - {""} - made:
            yield f"attention[{glob!r}] attends along {name!r},", f"which no Split cuts; {_streams(made)}"


def _cuts(spec: ModelSpec) -> Iterator[Cut]:
    for cut in spec.cp_plan.values():
        for one in cut.values() if isinstance(cut, Mapping) else [cut]:
            yield from one if isinstance(one, tuple) else [one]


def _names(stream: str | tuple[str, ...]) -> set[str]:
    return {*((stream,) if isinstance(stream, str) else stream)} - {""}


def _streams(made: set[str]) -> str:
    return f"use one of {', '.join(sorted(made))}." if made else "cp_plan has no Split at all."
