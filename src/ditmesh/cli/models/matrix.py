"""The support matrix: what of a pipeline can be spread over ranks, read off the sheets; as tables, and by class."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ditmesh.config.words import either
from ditmesh.models import AUTOENCODERS, CONTROLNETS, SPECS, TEXT_ENCODERS
from ditmesh.spec import Attention, Count, Cut, Fused, Gather, Heads, Length, ModelSpec, PerHead, Refuse, Sharded, Split

Cell = tuple[str, ...]  # the lines of it

STYLES: Mapping[str | type, str] = {
    Sharded: "a rank keeps a share of its parameters, and the outputs are summed",
    PerHead: "a rank keeps what its heads read",
    Heads: "a rank counts its own heads",
    "heads": "a rank counts its own heads",
    "colwise": "a rank keeps its outputs",
    "colwise_gather_output": "a rank keeps its outputs, which are gathered",
    "rowwise": "a rank keeps its inputs, and the outputs are summed",
    "norm_across_heads": "a rank keeps its heads, and the mean square crosses ranks",
}
# Every kind of module that has sheets: its title, what the columns say, and the sheets by class.
SHEETS: tuple[tuple[str, str, Mapping[str, ModelSpec]], ...] = (
    (
        "Transformers",
        "TP: tensor parallelism. CP: context parallelism (Ulysses, Ring and both), with the sequences that are cut; a "
        "sequence that is not named is whole on every rank. They combine freely.",
        SPECS,
    ),
    (
        "ControlNets",
        "Spread like the transformer they steer when extra_parallel_modules names them; else whole on every rank.",
        CONTROLNETS,
    ),
)


@dataclass(frozen=True)
class Table:
    """One kind of module: a row for each class, the class name in the column ``CLASS``."""

    title: str
    about: str
    rows: tuple[Mapping[str, Cell], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.rows[0])


@dataclass(frozen=True)
class Facts:
    """Names and values under a heading."""

    title: str
    rows: tuple[tuple[str, str], ...]


def tables() -> list[Table]:
    """Every table of the matrix, in the order to show them in."""
    return [*(_sheets(*kind) for kind in SHEETS), _text_encoders(), _autoencoders()]


def sheet_of(name: str) -> ModelSpec | None:
    """The sheet of a class, if it is of a kind that has sheets."""
    return next((specs[name] for _, _, specs in SHEETS if name in specs), None)


def _sheets(title: str, about: str, specs: Mapping[str, ModelSpec]) -> Table:
    rows = [
        {
            "MODEL": (spec.title,),
            "CLASS": (name,),
            "TP": ("yes" if spec.tp_plan else "no",),
            "CP": (", ".join(stream.replace("_", " ") for stream in _streams_cut(spec)) or "no",),
            "BLOCKS": tuple(blocks.path for blocks in spec.blocks),
            "LIMITS": tuple(_limits(spec)),
        }
        for name, spec in specs.items()
    ]
    return Table(title, about, tuple(sorted(rows, key=lambda row: row["MODEL"][0].lower())))


def _text_encoders() -> Table:
    about = (
        "Sharded over all ranks: attention by heads, MLPs by columns, token embeddings by vocabulary. Another class is "
        "taken if transformers or ditmesh has a tensor-parallel plan for its language model, or else refused by name."
    )
    rows = [{"CLASS": (name,), "WHOLE ON EVERY RANK": (_kept_whole(whole),)} for name, whole in TEXT_ENCODERS.items()]
    return Table("Text encoders", about, tuple(rows))


def _kept_whole(modules: tuple[str, ...]) -> str:
    return "all of it: it is small" if modules == ("",) else ", ".join(modules)


def _autoencoders() -> Table:
    about = (
        "Encoding and decoding are cut into bands of rows over all ranks. Another class is taken if every part of it "
        "is known not to mix rows, or how; a part that is not known is refused by name."
    )
    rows = [{"CLASS": (name,), "TAKES": (f"[{', '.join(known.takes)}]",)} for name, known in AUTOENCODERS.items()]
    return Table("Autoencoders", about, tuple(rows))


def find(name: str) -> str:
    """The class name of what is called ``name``: a class, or the title of a model, in any case and punctuation.

    Raises:
        ValueError: nothing or several are called so; it says what was probably meant.
    """
    names = _names()
    matches = {names[known]: known for known in names if _plain(known) == _plain(name)}
    matches = matches or {names[known]: known for known in reversed(names) if _plain(known).startswith(_plain(name))}
    if len(matches) == 1:
        return next(iter(matches))
    if matches and _plain(name):
        raise ValueError(f"{name!r} may be {either(sorted(matches.values()))}; name one of them.")
    close = difflib.get_close_matches(_plain(name), {_plain(known): known for known in names})
    meant = sorted(known for known in names if _plain(known) in close)
    hint = f"did you mean {either(meant)}?" if meant else "`ditmesh models` lists all there is."
    raise ValueError(f"nothing here is called {name!r}; {hint}")


def _names() -> dict[str, str]:
    """What may be asked for -> the class it is."""
    rows = [row for table in tables() for row in table.rows]
    return {name: row["CLASS"][0] for row in rows for name in (*row.get("MODEL", ()), *row["CLASS"])}


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


def facts_of(name: str, config: Mapping[str, Any] | None = None) -> list[Facts]:
    """What is done to a class of the matrix, by its exact name.

    Args:
        name: a class name, as ``find`` returns it.
        config: the configuration of a class that has a sheet, for the number of its heads.
    """
    spec = sheet_of(name)
    if spec is not None:
        return list(_sheet_facts(spec, config))
    for table in tables():
        for row in (row for row in table.rows if row["CLASS"] == (name,)):
            facts = tuple((column.lower(), ", ".join(cell)) for column, cell in row.items() if "".join(cell))
            return [Facts(table.title, (*facts, ("how", table.about)))]
    raise ValueError(f"{name} is not in the matrix.")


def _sheet_facts(spec: ModelSpec, config: Mapping[str, Any] | None) -> Iterator[Facts]:
    yield Facts(
        "Blocks, in order", tuple((blocks.path, f"returns {', '.join(blocks.returns)}") for blocks in spec.blocks)
    )
    if config is not None:
        yield Facts("Heads", tuple(_head_facts(spec, config)))
    for style, names in _by_style(spec.tp_plan).items():
        yield Facts(f"Tensor parallelism: {style}", _by_parent(names))
    whole = {**spec.replicated, "everything else": "embedders, norms of one head and what no line above names"}
    yield Facts("Tensor parallelism: whole on every rank", tuple(whole.items()))
    yield Facts(
        "Context parallelism: cut and gathered",
        tuple((place or "the call", text) for place, cut in spec.cp_plan.items() for text in _cut_lines(cut)),
    )
    attentions = {path: _attends(fact) for path, fact in spec.attention.items()}
    yield Facts("Context parallelism: attention", tuple(attentions.items()))
    refused = [(path, f"{key}: {cut.why}") for path, key, cut in _refusals(spec)]
    limits = [(key, f"only {either(values)}") for key, values in spec.covers.items()]
    if refused or limits:
        yield Facts("Refused", tuple([(path or "the call", why) for path, why in refused] + limits))


def _head_facts(spec: ModelSpec, config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    heads, served_by = spec.count_heads(config), config.get(spec.kv_heads)
    text = f"{heads} of {spec.head_width(config)} channels"
    yield "count", text if served_by is None else f"{text}, {served_by} of keys and values"
    sizes = [size for size in range(1, heads + 1) if heads % size == 0 and (served_by or size) % size == 0]
    yield "tp_size", either(sizes)
    yield "ulysses_size", f"at most {heads} divided by tp_size"
    yield "ring_size", "any"


def _by_style(plan: Mapping[str, object]) -> dict[str, list[str]]:
    styles: dict[str, list[str]] = {}
    for name, style in plan.items():
        styles.setdefault(_style(style), []).append(name)
    return styles


def _style(style: object) -> str:
    if isinstance(style, Fused):
        return f"{_style(style.style)}, part by part of [{' | '.join(style.parts)}]"
    return STYLES[style if isinstance(style, str) else type(style)]


def _by_parent(names: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """A line for each list of blocks; what only some variants have keeps its "?"."""
    lists: dict[str, list[str]] = {}
    for name in names:
        blocks, _, inside = (f"{name}." if name.endswith("*") else name).rpartition("*.")
        lists.setdefault(f"{blocks}*" if blocks else "the model", []).append(inside or "each block itself")
    return tuple((blocks, ", ".join(inside)) for blocks, inside in lists.items())


def _cut_lines(cut: Cut | Mapping[str | int, Cut]) -> Iterator[str]:
    if isinstance(cut, Mapping):
        for key, each in cut.items():
            yield f"{key if isinstance(key, str) else f'output {key}'}: {_cut(each)}"
    else:
        yield f"output: {_cut(cut)}"


def _cut(cut: Cut) -> str:
    if isinstance(cut, tuple):
        return f"({', '.join(_cut(each) for each in cut)})"
    if isinstance(cut, Refuse):
        return "refused"
    if isinstance(cut, Count):
        return f"counts {cut.stream} tokens"
    if isinstance(cut, Length):
        return f"tells the length of {cut.stream}"
    if isinstance(cut, Gather):
        return f"{_named(cut.stream)} gathered along dimension {cut.dim}"
    kind = " (padding mask)" if cut.mask else ""
    return f"{_named(cut.stream)} cut along dimension {cut.dim}{kind}"


def _named(streams: str | tuple[str, ...]) -> str:
    """The streams; "" is what is whole on every rank."""
    return streams if isinstance(streams, str) else " and ".join(filter(None, streams))


def _attends(fact: Attention) -> str:
    if not fact.streams:
        return "over what every rank holds, without communication"
    return _named(fact.streams) + (f" to {_named(fact.keys)}" if fact.keys else "")


def _streams_cut(spec: ModelSpec) -> list[str]:
    """The sequences that context parallelism cuts, as attention knows them; or as they are cut between attentions."""
    attended = [stream for fact in spec.attention.values() for stream in (*fact.streams, *(fact.keys or ()))]
    plans = [plan.values() if isinstance(plan, Mapping) else (plan,) for plan in spec.cp_plan.values()]
    cut = [cut.stream for plan in plans for cut in plan if isinstance(cut, Split) and isinstance(cut.stream, str)]
    return list(dict.fromkeys(stream.removesuffix("?") for stream in filter(None, attended or cut)))


def _limits(spec: ModelSpec) -> Iterator[str]:
    for key, values in spec.covers.items():
        yield f"{key}: {either(values)}"
    for _, key, _ in _refusals(spec):
        yield f"CP without {key}"


def _refusals(spec: ModelSpec) -> Iterator[tuple[str, str | int, Refuse]]:
    for path, plan in spec.cp_plan.items():
        for key, cut in plan.items() if isinstance(plan, Mapping) else ():
            if isinstance(cut, Refuse):
                yield path, key, cut
