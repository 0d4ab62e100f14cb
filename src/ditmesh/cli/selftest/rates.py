"""What a self-test measured of a machine: as a table, and as the planner's entry of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from ditmesh.planner.hardware import write_entry
from ditmesh.planner.links import Measured
from ditmesh.planner.measure import Rates, entry


def read_rates(told: Mapping[str, Any]) -> Rates:
    return Rates(**{**told, "links": tuple(Measured(**link) for link in told["links"])})


def write(rates: Rates, ranks: int, versions: Mapping[str, str]) -> Path:
    """The machine's entry, into the user's own file."""
    source = f"ditmesh selftest, {ranks} x {rates.device}, torch {versions.get('torch', '')}"
    return write_entry(entry(rates, source))


def rates_table(rates: Rates) -> Table:
    """A row for each rate, of a rank while all of them do the same."""
    table = Table(title="\nRates of a rank, all at once", title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("what")
    table.add_column("rate", justify="right")
    table.add_column("latency", justify="right")
    for dtype, peak in rates.peaks.items():
        table.add_row(f"matrices, {dtype}", f"{_flops(rates.matmul[dtype])} of {_flops(peak)}")
    table.add_row("attention", _flops(rates.attention))
    table.add_row("convolution", _flops(rates.convolution))
    table.add_row("memory", _bytes(rates.copy))
    if rates.to_device:
        table.add_row("host to device", _bytes(rates.to_device))
        table.add_row("device to host", _bytes(rates.to_host))
    table.add_row("an operator", "", _time(rates.launch))
    for link in rates.links:
        among = f"{link.ranks} ranks" if link.message != "pair" else f"{link.inner} apart"
        table.add_row(f"{link.message}, {among}", _bytes(link.rate), _time(link.latency))
    return table


def _flops(rate: float) -> str:
    return f"{rate / 1e12:.3g} TFLOP/s"


def _bytes(rate: float) -> str:
    return f"{rate / 1e9:.3g} GB/s"


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:.3g} us"
