"""What `ditmesh plan` prints: a table of all layouts, what would make others fit, and the command to run."""

import json
import shlex
from typing import Any

from rich.console import Console
from rich.table import Table

from ditmesh.cli.examples import EXAMPLES, example_of
from ditmesh.cli.plan.options import PlanOptions
from ditmesh.job.description import Job
from ditmesh.planner.peaks import gib
from ditmesh.planner.plan import Estimate, Plan
from ditmesh.planner.search import Question, search
from ditmesh.runtime.terminal import shown

MEMORY = ("weights", "encoders", "vae", "buffers", "activations", "decode", "context", "allocated", "total")
SECONDS = ("encode", "denoise", "compute", "communication", "bubble", "launch", "decode", "total")
PARTS = ("GPUs", "GiB", "weights", "encoders", "buffers", "activations", "decoding", "context")
TIMES = ("seconds", "encode", "denoise", "compute", "messages", "idle", "decode")
SIZES = ("height", "width", "num_frames", "num_inference_steps")
WIDE = 156  # columns of the table
NOTES = {
    "cache": "what a cache leaves out is not known beforehand: seconds are those without one; --cache-hits 0.5 says "
    "that it leaves out half of the steps",
    "lossy": "layouts marked * see some of the step before (PipeFusion) and are not recommended for it",
    "peak": "GiB is the peak of one device: weights, buffers and the larger of activations and decoding, plus context",
}


def look(job: Job, ask: Question, options: PlanOptions) -> int:
    """Search, print, and plot if that was asked; 1 if nothing fits."""
    plan = _watched(job, ask, quiet=options.json)
    if options.json:
        print(json.dumps(as_json(plan, options), indent=1))
    else:
        print_plan(plan, options)
    if options.plot is not None:
        from ditmesh.cli.plan.plot import plot  # matplotlib is asked for, never needed

        plot(plan, options.plot)
        if not options.json:
            print(f"saved {shown(options.plot)}")
    return 0 if plan.best else 1


def _watched(job: Job, ask: Question, quiet: bool) -> Plan:
    """The plan; meanwhile a terminal shows how far it is."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        return search(job, ask)
    with console.status("dry runs ...") as status:
        return search(job, ask, tell=lambda done, of: status.update(f"dry runs: {done} of {of} layouts"))


def print_plan(plan: Plan, options: PlanOptions) -> None:
    console = Console(highlight=False, markup=False)
    console.width = max(console.width, WIDE)
    device, job = plan.device, plan.job
    call = {name: job.call[name] for name in SIZES if name in job.call}
    told = ", ".join(f"{name.removeprefix('num_').replace('_', ' ')} {value}" for name, value in call.items())
    console.print(f"{job.example.name} ({job.dtype}; {told}) on {plan.devices} x {device.name}", style="bold")
    console.print(f"{gib(device.memory):.1f} GiB each; {device.source}", style="dim", soft_wrap=True)
    console.print(table(plan))
    for line in (*over_lines(plan), *note_lines(plan, options)):
        console.print(shown(line), soft_wrap=True)
    console.print(shown(plan.reason), style="bold", soft_wrap=True)
    if plan.best is not None:
        console.print(f"  {command(plan.best, options)}", soft_wrap=True)


def table(plan: Plan) -> Table:
    """A row for each layout that was looked at, best first; what does not fit has no seconds to speak of."""
    made = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    made.add_column("layout", header_style="dim", no_wrap=True)
    for name in (*PARTS, *TIMES):
        made.add_column(name, justify="right", header_style="dim", no_wrap=True)
    if plan.throughput:
        made.add_column("an hour", justify="right", header_style="dim", no_wrap=True)
    made.add_column("limited by", header_style="dim", no_wrap=True)
    for one in plan.estimates:
        if one.memory is not None and one.seconds is not None:
            made.add_row(*_cells(one, plan.throughput), style=None if one.fits else "dim")
    return made


def _cells(one: Estimate, throughput: bool) -> list[str]:
    memory, seconds = one.memory, one.seconds
    assert memory is not None
    assert seconds is not None
    weights, peaks = memory.weights + memory.vae, (memory.activations, memory.decode, memory.context)
    cells = [f"{one.layout}{'*' if one.layout.is_lossy else ''}", str(one.layout.world_size)]
    cells += [f"{gib(size):.2f}" for size in (memory.total, weights, memory.encoders, memory.buffers, *peaks)]
    if not one.fits:
        return [*cells, "OOM", *([""] * (6 + throughput)), f"{gib(one.over):.1f} GiB over"]
    parts = (seconds.compute, seconds.communication, seconds.bubble + seconds.launch)
    spent = (seconds.total, seconds.encode, seconds.denoise, *parts, seconds.decode)
    cells += [f"{value:.2f}" for value in spent]
    return [*cells, *([f"{one.pictures_per_hour:.0f}"] if throughput else []), seconds.limit]


def over_lines(plan: Plan) -> list[str]:
    """What would make each layout fit that does not; layouts of one answer share a line."""
    answers = dict[str, list[str]]()
    for one in plan.estimates:
        if one.over:
            flags = " ".join(one.cures or ())
            answer = "there was no time to try flags" if one.cures is None else "no flag makes it fit"
            answers.setdefault(f"with {flags} it fits" if flags else answer, []).append(str(one.layout))
    return [f"does not fit: {', '.join(names)}: {answer}" for answer, names in answers.items()]


def note_lines(plan: Plan, options: PlanOptions) -> list[str]:
    notes = [NOTES["peak"]]
    if any(one.layout.is_lossy and one.memory for one in plan.estimates):
        notes.append(NOTES["lossy"])
    if options.cache and options.cache_hits is None:
        notes.append(NOTES["cache"])
    refused = [one for one in plan.estimates if one.refused]
    if refused:
        notes.append(f"{len(refused)} layouts cannot run, such as {refused[0].layout}: {refused[0].refused}")
    if plan.unseen:
        notes.append(f"no time was left for {', '.join(map(str, plan.unseen))}; raise --max")
    notes += dict.fromkeys(line for one in plan.estimates for line in one.unknown)
    return [f"note: {line}" for line in notes]


def command(one: Estimate, options: PlanOptions) -> str:
    """What to run."""
    layout, job = one.layout, one.job
    asked = given_flags(options, job)
    parallel = [f"--parallel {layout}"] if layout.world_size > 1 else []
    if options.throughput:
        asked = ["--shard_weights"] if layout.shard_weights else []
        model = EXAMPLES[options.model].model if options.model in EXAMPLES else options.model
        model = f"--model_name {shlex.quote(model)}"
        return " ".join(["ditmesh t2i", model, "--prompts_file prompts.txt", *parallel, *asked])
    return " ".join(["ditmesh generate", *example_flags(job, options.model), *parallel, *asked])


def example_flags(job: Job, asked: str) -> list[str]:
    """What `generate` is to draw with."""
    if asked in EXAMPLES:
        return [asked]
    named = example_of(job.example.pipeline, asked)
    assert named is not None
    return [named.name, "--model-path", shlex.quote(asked)]


def given_flags(options: PlanOptions, job: Job) -> list[str]:
    """Those flags that `generate` has too."""
    call, many = job.call, job.layout.world_size > 1
    size = [f"--height {call['height']} --width {call['width']}"] if options.size else []
    return [
        *size,
        *([f"--frames {options.frames}"] if options.frames else []),
        *([f"--steps {options.steps}"] if options.steps else []),
        *([f"--quantize {options.quantize}"] if options.quantize else []),
        *(["--quantized-text"] if options.quantized_text else []),
        *(["--parallel-text"] if options.parallel_text and many else []),
        *(["--parallel-vae"] if options.parallel_vae and many else []),
        *(["--shard-weights"] if job.layout.shard_weights else []),
        *(["--cache"] if options.cache else []),
    ]


def as_json(plan: Plan, options: PlanOptions) -> dict[str, Any]:
    """All that is known, for programs; memory in GiB."""
    best = plan.best
    return {
        "model": options.model,
        "device": plan.device.name,
        "devices": plan.devices,
        "device_gib": gib(plan.device.memory),
        "dtype": plan.job.dtype,
        "call": {name: value for name, value in plan.job.call.items() if isinstance(value, int | float | str)},
        "layouts": [_row(one) for one in plan.estimates],
        "not_looked_at": [str(layout) for layout in plan.unseen],
        "recommended": best and str(best.layout),
        "reason": plan.reason,
        "command": best and command(best, options),
        "notes": [line.removeprefix("note: ") for line in note_lines(plan, options)],
    }


def _row(one: Estimate) -> dict[str, Any]:
    row: dict[str, Any] = {"layout": str(one.layout), "gpus": one.layout.world_size, "refused": one.refused or None}
    if one.memory is None or one.seconds is None:
        return row
    memory, seconds = one.memory, one.seconds
    return row | {
        "fits": one.fits,
        "lossy": one.layout.is_lossy,
        "over_gib": gib(one.over),
        "fits_with": None if one.cures is None else list(one.cures),
        "gib": {name: gib(getattr(memory, name)) for name in MEMORY},
        "seconds": {name: getattr(seconds, name) for name in SECONDS},
        "limited_by": seconds.limit,
        "pictures_per_hour": one.pictures_per_hour,
    }
