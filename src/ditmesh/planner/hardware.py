"""Devices and the links between them, as data: the table that ships with the package, and the user's own."""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ditmesh.config.words import either, suggest

SHIPPED = Path(__file__).with_name("hardware.toml")
THIS = "this"  # the machine that ditmesh selftest measured
GIB, MIB, GB, MICRO = 2**30, 2**20, 10**9, 1e-6
DEVICE_KEYS = ("memory", "bandwidth", "rates", "topology", "source", "context", "launch", "startup")
DEVICE_KEYS += ("efficiency", "cpu", "cache", "cache_bandwidth")
MACHINE = re.compile(r"([1-9][0-9]{0,3})[xX*](.+)")
LEVEL_KEYS = ("ranks", "bandwidth", "latency", "pair")


@dataclass(frozen=True)
class Link:
    """A level of a machine: what joins ``ranks`` devices, which are groups of the level below.

    Attributes:
        bandwidth: bytes/s in one direction that leave a group of the level below for others of this one, by device of
            that group, when all of them send at once.
        latency: seconds of one message.
        pair: bytes/s between two devices, where that is less than they send to all others together; 0 for no less.
    """

    ranks: int
    bandwidth: float
    latency: float
    pair: float = 0.0


@dataclass(frozen=True)
class Hardware:
    """What one device can do, and how several are joined.

    Attributes:
        memory: bytes that a program can have.
        rates: FLOP/s by dtype ("float32", "bfloat16", "float8", ...), dense, at the peak.
        bandwidth: bytes/s of its memory, at the peak.
        links: from the inside out.
        context: bytes that the runtime and its communication take.
        launch: seconds in which the host starts one kernel.
        startup: seconds that a kernel takes beside its work.
        efficiency: the fraction of the peak that a program reaches: of "matmul", "attention", "convolution", "memory"
            and "link".
        source: where the numbers are from.
        is_cpu: weights are float32 there where nobody says otherwise.
        cache: bytes of the last cache before the memory, and ``cache_bandwidth`` bytes/s of it; 0 for none to reckon
            with.
    """

    name: str
    memory: int
    rates: Mapping[str, float]
    bandwidth: float
    links: tuple[Link, ...]
    context: int
    efficiency: Mapping[str, float]
    launch: float
    startup: float
    source: str
    is_cpu: bool = False
    cache: int = 0
    cache_bandwidth: float = 0.0


@dataclass(frozen=True)
class Table:
    """The devices and topologies of one or several files."""

    devices: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))
    topologies: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))
    efficiency: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    defaults: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))

    def over(self, other: "Table") -> "Table":
        """This table, and of the other what it does not have."""
        return Table(
            {**other.devices, **self.devices},
            {**other.topologies, **self.topologies},
            {**other.efficiency, **self.efficiency},
            {**other.defaults, **self.defaults},
        )


def users_file() -> Path:
    """Where the user's own devices are kept, and the one that ``ditmesh selftest`` writes."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "ditmesh" / "hardware.toml"


def read_table(*files: Path) -> Table:
    """The shipped devices, over them those of the user's own file, and over them those of ``files``.

    Raises:
        ValueError: a file cannot be read or is no such table.
    """
    table = Table()
    own = users_file()
    for path in (SHIPPED, *([own] if own.is_file() else []), *files):
        table = _read(path).over(table)
    return table


def _read(path: Path) -> Table:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"hardware file {path}: {error}; it has to be TOML with a table [device.NAME].") from error
    for key in content:
        if key not in ("device", "topology", "efficiency", "defaults"):
            raise ValueError(f"hardware file {path}: {key!r} is no part of it; write [device.NAME].")
    try:
        for name, entry in content.get("device", {}).items():
            refuse_others(entry, DEVICE_KEYS, f"[device.{name}]")
        return Table(*(content.get(part, {}) for part in ("device", "topology", "efficiency", "defaults")))
    except ValueError as error:
        raise ValueError(f"hardware file {path}: {error}") from error


def refuse_others(entry: Mapping[str, object], known: tuple[str, ...], where: str) -> None:
    """Refuse a key of a table that nothing reads."""
    for key in entry:
        if key not in known:
            raise ValueError(f"{where} has {key!r}; {suggest(key, known)}")


def machine(text: str, table: Table | None = None, link: str | None = None) -> tuple[Hardware, int]:
    """The device, and how many of it, of a text like ``8xL20``.

    Raises:
        ValueError: it is unknown, or there is no number.
    """
    found = MACHINE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no machine; write how many of what, as in 8xL20.")
    device, devices = hardware(found[2], table, link), int(found[1])
    if devices > device.links[-1].ranks:
        raise ValueError(f"{text}: the links of {device.name} are known for {device.links[-1].ranks} at most.")
    return device, devices


def hardware(name: str, table: Table | None = None, link: str | None = None) -> Hardware:
    """The device of that name, as nearly as people write it: ``l20``, ``rtx4090`` and ``A100`` are known too.

    Args:
        link: how several are joined, where that is not as the table says.

    Raises:
        ValueError: there is none, or its entry is no device.
    """
    table = read_table() if table is None else table
    found = _find(name, table)
    entry = table.devices[found]
    own = {**table.defaults, **entry}
    try:
        topology = entry["topology"] if link is None else link
        shape = _topology(topology, table)
        made = Hardware(
            name=found,
            memory=int(_positive(entry, "memory") * GIB),
            rates=MappingProxyType({dtype: _positive(entry["rates"], dtype) for dtype in entry["rates"]}),
            bandwidth=_positive(entry, "bandwidth") * GB,
            links=tuple(_level(level) for level in shape["levels"]),
            context=int(_positive(own, "context") * GIB),
            efficiency=MappingProxyType(
                {**table.efficiency, **shape.get("efficiency", {}), **entry.get("efficiency", {})}
            ),
            launch=_positive(own, "launch") * MICRO,
            startup=_positive(own, "startup") * MICRO,
            source=str(entry.get("source", "")),
            is_cpu=bool(entry.get("cpu", False)),
            cache=int(entry.get("cache", 0) * MIB),
            cache_bandwidth=float(entry.get("cache_bandwidth", 0)) * GB,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"[device.{found}] is no device ({type(error).__name__}: {error}); it needs memory, bandwidth, rates and "
            f"topology, as those of {SHIPPED} have them."
        ) from error
    if not made.links or any(a.ranks >= b.ranks for a, b in zip(made.links, made.links[1:], strict=False)):
        raise ValueError(f"[device.{found}]: the levels of its topology have to grow from the inside out.")
    return made


def _find(name: str, table: Table) -> str:
    plain = {_plain(known): known for known in table.devices}
    if _plain(name) in plain:
        return plain[_plain(name)]
    if name == THIS:
        raise ValueError("this machine was not measured yet; run: ditmesh selftest")
    sizes = [known for key, known in plain.items() if re.fullmatch(re.escape(_plain(name)) + r"\d+", key)]
    variants = [known for known in table.devices if known.startswith(f"{name.upper()}-")]
    if variants or sizes:
        raise ValueError(f"{name!r} is several devices; name {either(variants or sizes)}.")
    raise ValueError(
        f"there is no device {name!r}; {suggest(name, table.devices)} To add one, write a table [device.{name}] as in "
        f"docs/planner.md into {users_file()}, or run `ditmesh selftest` on it and ask for {THIS!r}."
    )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower()).removeprefix("nvidia").removeprefix("rtx").removeprefix("geforce")


def _topology(topology: Any, table: Table) -> Mapping[str, Any]:
    if isinstance(topology, list):
        return {"levels": topology}
    if topology not in table.topologies:
        raise ValueError(f"there is no topology {topology!r}; {suggest(str(topology), table.topologies)}")
    return table.topologies[topology]


def _level(level: Mapping[str, Any]) -> Link:
    refuse_others(level, LEVEL_KEYS, "a level of a topology")
    pair = float(level.get("pair", 0)) * GB
    return Link(
        int(_positive(level, "ranks")), _positive(level, "bandwidth") * GB, _positive(level, "latency") * MICRO, pair
    )


def _positive(entry: Mapping[str, Any], key: str) -> float:
    value = entry[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ValueError(f"{key} = {value!r} is no number above 0.")
    return float(value)


def write_entry(device: Hardware, path: Path | None = None) -> Path:
    """Write a device into the user's own file, in place of one of its name; what else is there stays as it is."""
    path = path or users_file()
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    head = f"[device.{device.name}]\n"
    kept = re.sub(rf"(?m)^{re.escape(head)}(?:(?!\[)[^\n]*\n)*", "", text).rstrip()
    levels = ", ".join(
        f"{{ranks = {one.ranks}, bandwidth = {one.bandwidth / GB:.6g}, latency = {one.latency / MICRO:.6g}"
        f"{f', pair = {one.pair / GB:.6g}' if one.pair else ''}}}"
        for one in device.links
    )
    entry = "".join(
        (
            head,
            f"memory = {device.memory / GIB:.6g}\n",
            f"bandwidth = {device.bandwidth / GB:.6g}\n",
            f"rates = {_inline(device.rates)}\n",
            f"topology = [{levels}]\n",
            f"context = {device.context / GIB:.6g}\n",
            f"launch = {device.launch / MICRO:.6g}\n",
            f"startup = {device.startup / MICRO:.6g}\n",
            f"efficiency = {_inline(device.efficiency)}\n",
            f"cache = {device.cache / MIB:.6g}\n",
            f"cache_bandwidth = {device.cache_bandwidth / GB:.6g}\n",
            f"cpu = {str(device.is_cpu).lower()}\n",
            f"source = '{device.source.replace(chr(39), ' ')}'\n",
        )
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{kept}\n\n{entry}" if kept else entry, encoding="utf-8")
    return path


def _inline(numbers: Mapping[str, float]) -> str:
    return "{" + ", ".join(f"{name} = {number:.6g}" for name, number in numbers.items()) + "}"
