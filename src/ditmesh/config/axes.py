"""The axes of a layout: a row for each, which holds all there is to know of it beside its strategy."""

from dataclasses import dataclass, field, fields
from typing import Literal

Shared = Literal["", "picture", "forward", "sequence"]
ORDER: tuple[Shared, ...] = ("", "picture", "forward", "sequence")  # who shares a forward shares its picture too


@dataclass(frozen=True)
class Axis:
    """What is known of an axis.

    Attributes:
        title: its name in tags of files.
        what: what its ranks are or do, for a list of groups.
        share: what the ranks along it make together. ``"sequence"``: each has its part of the tokens.
        weights: what a rank along it holds of them: whole ones, as the others do, or shards or blocks of its own.
        flag: of ``ditmesh t2i``, in all its spellings, and ``help``, which explains it.
        variable: DG_XDIT_..., which means the same; "" for none.
        most: how many ranks there may be along it, None for any number, and ``why``. One of 2 has a switch for a flag.
    """

    title: str
    what: str
    share: Shared
    flag: str
    help: str
    variable: str = ""
    most: int | None = None
    why: str = ""
    weights: Literal["whole", "shards", "blocks"] = "whole"


def _row(axis: Axis) -> int:
    return field(default=1, metadata={"axis": axis})


@dataclass(frozen=True)
class Degrees:
    """How many ranks there are along each axis, outer to inner: those of one ``tp`` group, which talk most, are next
    to each other."""

    dp_size: int = _row(
        Axis(
            "DP", "replicas", "", "--data_parallel_degree", "Replicas, a picture each.", "DG_XDIT_DATA_PARALLEL_DEGREE"
        )
    )
    cfg_size: int = _row(
        Axis(
            "CFG",
            "guidance, a branch each",
            "picture",
            "--use_cfg_parallel/--no_use_cfg_parallel",
            "Two ranks, a branch of guidance each.",
            "DG_XDIT_USE_CFG_PARALLEL",
            most=2,
            why="guidance has two branches",
        )
    )
    pp_size: int = _row(
        Axis(
            "PP",
            "pipeline stages",
            "forward",
            "--pipefusion_parallel_degree, --pipefusion_degree",
            "Pipeline stages.",
            "DG_XDIT_PIPEFUSION_DEGREE",
            weights="blocks",
        )
    )
    ring_size: int = _row(
        Axis(
            "Ring",
            "ring, keys and values passed around",
            "sequence",
            "--ring_degree",
            "Ranks that pass keys and values around.",
            "DG_XDIT_RING_DEGREE",
        )
    )
    ulysses_size: int = _row(
        Axis(
            "Ulysses",
            "Ulysses, heads exchanged",
            "sequence",
            "--ulysses_degree",
            "Ranks that exchange heads.",
            "DG_XDIT_ULYSSES_DEGREE",
        )
    )
    tp_size: int = _row(
        Axis(
            "TP",
            "tensor shards",
            "forward",
            "--tensor_parallel_degree",
            "Ranks that share weights.",
            weights="shards",
        )
    )


AXES: dict[str, Axis] = {f.name.removesuffix("_size"): f.metadata["axis"] for f in fields(Degrees)}

# Words that share out all ranks: the first axis gets half of them, the second the rest; three get 2 each.
WORDS: dict[str, tuple[str, ...]] = {
    "tp": ("tp",),
    "ulysses": ("ulysses",),
    "ring": ("ring",),
    "usp": ("ulysses", "ring"),
    "tp_ulysses": ("tp", "ulysses"),
    "ulysses_tp": ("ulysses", "tp"),
    "tp_ring": ("tp", "ring"),
    "ring_tp": ("ring", "tp"),
    "usp_tp": ("ring", "ulysses", "tp"),
}


def sharing(what: Shared) -> tuple[str, ...]:
    """The axes whose ranks make this together, or a part of it."""
    return tuple(name for name, axis in AXES.items() if ORDER.index(axis.share) >= ORDER.index(what))


def holding(*weights: str) -> tuple[str, ...]:
    """The axes whose ranks make a picture together and hold such weights of a block that all of them run."""
    return tuple(name for name in sharing("picture") if AXES[name].weights in weights)
