"""The report of a self-test: what came of it, in a few lines, and all that a bug report needs."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console, RenderableType
from rich.table import Table

from ditmesh.cli.ranks import FAILED
from ditmesh.cli.selftest.cases import DEMO, PIPELINES, Case
from ditmesh.cli.selftest.gangs import Outcome
from ditmesh.cli.selftest.rates import rates_table, read_rates, write
from ditmesh.runtime.terminal import shown

PREFIXES = ("CUDA_", "DG_XDIT_", "DITMESH_", "GLOO_", "HIP_", "MKL_", "NCCL_", "NVIDIA_", "OMP_", "PYTORCH_", "RCCL_")
PREFIXES += ("ROCR_", "TORCH_", "TRANSFORMERS_", "DIFFUSERS_")
EXACT, NOT_RUN, ABSENT = "exact", "not run", "no such kernel here"
WIDTH = 120  # where there is no terminal
TO_TRY = "Try `NCCL_P2P_DISABLE=1 ditmesh selftest`: if that is well, a GPU cannot reach another's memory (ACS, IOMMU)."


@dataclass(frozen=True)
class Row:
    """One case, and what came of it: numbers, or why there are none; nothing if it was not run."""

    case: Case
    result: Mapping[str, Any] | None
    failure: str

    @property
    def verdict(self) -> str:
        if self.failure or self.result is None:
            return "FAILED" if self.failure else NOT_RUN
        if "absent" in self.result:
            return ABSENT
        return EXACT if self.result["error"] <= self.result["bound"] else "WRONG"

    @property
    def cell(self) -> str:
        number = f"{self.result['error']:.1e}" if self.result and "error" in self.result and not self.failure else ""
        return number if self.verdict == EXACT else f"{number} {self.verdict}".strip()


@dataclass
class Report:
    """What is found, number of ranks by number of ranks.

    Attributes:
        environment: the variables, as the user set them.
        tasks: what came of those that are no cases, by name.
        entry: where the machine's entry was written.
    """

    ranks: int
    device_type: str
    environment: Mapping[str, str]
    rows: list[Row] = field(default_factory=list[Row])
    tasks: dict[str, Any] = field(default_factory=dict[str, Any])
    failures: dict[str, str] = field(default_factory=dict[str, str])
    stops: list[str] = field(default_factory=list[str])
    interrupt: int = 0
    entry: Path | None = None

    def add(self, tasks: list[dict[str, Any]], outcome: Outcome) -> None:
        for number, task in enumerate(tasks):
            result, failure = outcome.results.get(number), outcome.failures.get(number, "")
            if "case" in task:
                self.rows.append(Row(Case(**task["case"]), result, failure))
            elif result is not None and not failure:
                self.tasks[task["task"]] = result["found"]
            else:
                self.failures[task["task"]] = failure or "not run"
        self.stops += [outcome.stopped] if outcome.stopped else []
        self.interrupt = self.interrupt or outcome.code

    def write_entry(self) -> None:
        if "rates" in self.tasks:
            try:
                self.entry = write(read_rates(self.tasks["rates"]), self.ranks, self.tasks.get("machine", {}))
            except OSError as error:
                self.failures["writing the hardware entry"] = str(error)

    @property
    def faults(self) -> list[str]:
        """Of messages."""
        return self.tasks.get("messages", [])

    @property
    def code(self) -> int:
        right = all(row.verdict in (EXACT, ABSENT) for row in self.rows) and not self.faults and not self.failures
        return self.interrupt or (0 if right else FAILED)

    @property
    def verdict(self) -> str:
        counts = [row.verdict for row in self.rows]
        told = [f"{counts.count(x)} {x}" for x in (EXACT, "WRONG", "FAILED", NOT_RUN, ABSENT) if x in counts]
        told += ["messages between ranks are garbled"] if self.faults else []
        told += [f"no answer to: {', '.join(self.failures)}"] if self.failures else []
        what = f"{len(counts)} cases on {self.ranks} {'GPU' if self.device_type == 'cuda' else 'CPU'} ranks"
        return f"{what}: {', '.join(told)}"

    def show(self, file: TextIO | None = None) -> None:
        """Print all of it; to the terminal the machine is known, and its facts are for the file."""
        wide = file is not None or not sys.stdout.isatty()
        console = Console(file=file, width=WIDTH if wide else None, highlight=False, markup=False)
        for part in self._parts(in_full=file is not None):
            console.print(part, soft_wrap=isinstance(part, str))

    def _parts(self, in_full: bool) -> Iterator[RenderableType]:
        if in_full:
            yield f"ditmesh selftest\n{self.verdict}\n"
            yield from (f"{name}: {_indented(fact)}" for name, fact in self._machine().items())
        yield self._table()
        if self.ranks == 1:
            yield (
                "One rank sends nothing: its kernels and the cache were checked, and no layout. Each rank needs a GPU "
                "of its own; `CUDA_VISIBLE_DEVICES= ditmesh selftest --nproc 2` tries layouts on the CPU."
            )
        if "rates" in self.tasks:
            yield rates_table(read_rates(self.tasks["rates"]))
        yield from self._failures()
        if self.entry:
            yield f"\nThis machine is `this` for ditmesh plan: {shown(self.entry)}"
        yield self.verdict

    def _machine(self) -> dict[str, str]:
        matter = [f"{name}={self.environment[name]}" for name in sorted(self.environment) if name.startswith(PREFIXES)]
        return {**self.tasks.get("machine", {}), "variables": "\n".join(matter) or "none that matters is set"}

    def _failures(self) -> Iterator[str]:
        told = {str(row.case): row.failure for row in self.rows if row.failure} | self.failures
        yield from (f"\n{name} failed: {_indented(shown(failure, lines=True))}" for name, failure in told.items())
        yield from (f"\nmessages: {fault}" for fault in self.faults)
        if self.device_type == "cuda" and (self.faults or "messages" in self.failures):
            yield TO_TRY
        yield from (f"\nNot everything was run: {stop}" for stop in self.stops)

    def _table(self) -> Table:
        """A row for each layout, a column for each pipeline."""
        names = [DEMO, *PIPELINES]
        table = Table(title="Difference to one process", title_justify="left", box=None, padding=(0, 2, 0, 0))
        for name in ("layout", "dtype", *names, "step of demo", "verdict"):
            is_text = name in ("layout", "dtype", "verdict")
            table.add_column(name, justify="left" if is_text else "right", no_wrap=is_text)
        lines: dict[tuple[str, str], dict[str, Row]] = {}
        for row in self.rows:
            lines.setdefault((row.case.title, row.case.dtype), {})[row.case.pipeline] = row
        for (title, dtype), row in lines.items():
            verdicts = dict.fromkeys(one.verdict for one in row.values())
            verdict = ", ".join(x for x in verdicts if x != EXACT or len(verdicts) == 1)
            timed = row[DEMO].result if DEMO in row else None
            step = f"{timed['seconds'] * 1e3:.1f} ms" if timed else ""
            style = None if verdict in (EXACT, ABSENT) else "bold red"
            cells = [row[name].cell if name in row else "" for name in names]
            table.add_row(title, dtype, *cells, step, verdict, style=style)
        return table


def _indented(text: str) -> str:
    """Of several lines, those after the name."""
    return text if "\n" not in text else "\n" + "\n".join(f"    {line}" for line in text.splitlines())
