"""What it takes to load a FLUX.2 onto ranks: host memory of each rank and of the node, and the time to the first step.

    python -m benchmarks.load --gib 6
    python -m benchmarks.load --gib 0.5 --layouts tp2 ulysses4+shard_weights --rounds 1

Makes a random checkpoint of FLUX.2's architecture in sharded safetensors. Each layout is loaded in fresh processes, all
its ranks at once, in two ways that take turns: "stock" is DiffusionPipeline.from_pretrained and then enable_cache,
"lean" is ditmesh.from_pretrained. Memory counts from when a tiny pipeline of the same kind was loaded, so that all is
imported, and the ranks have met; what a process takes by then is printed. A rank's peak counts the pages of files it
maps, the node's counts shared ones once. Files lie in the page cache, where they were written. Prints the least memory
and the median time of the rounds.
"""

import argparse
import gc
import itertools
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from diffusers import DiffusionPipeline, PipelineQuantizationConfig, TorchAoConfig
from torch import nn
from torchao.quantization import Int8WeightOnlyConfig

import ditmesh
from benchmarks.flux2_checkpoint import GIB, in_file, make, shapes
from ditmesh import ParallelismConfig

LAYOUTS = ["tp1", "tp2", "tp4", "pp4", "ulysses2.tp2", "ulysses4+shard_weights", "tp2+int8"]
WAYS = ["stock", "lean"]


def arguments_of(layout: str) -> dict[str, Any]:
    """A layout and what stands behind its plus, as both ways take them."""
    name, *more = layout.split("+")
    config = ParallelismConfig() if name == "tp1" else ParallelismConfig.parse(name)
    if config.world_size > 1:
        patches = 1 if config.pp_size > 1 else None
        config = replace(config, num_pipeline_patch=patches, extra_parallel_modules=("text_encoder",))
    if "shard_weights" in more:
        config = replace(config, shard_weights=True)
    given: dict[str, Any] = {"parallelism_config": config}
    if "int8" in more:
        int8 = TorchAoConfig(Int8WeightOnlyConfig())
        given["quantization_config"] = PipelineQuantizationConfig(quant_mapping={"transformer": int8})
    return given


def stock(path: str, parallelism_config: ParallelismConfig, **more: Any) -> Any:
    pipe = DiffusionPipeline.from_pretrained(path, torch_dtype=torch.bfloat16, **more)
    return ditmesh.enable_cache(pipe, parallelism_config=parallelism_config)


def lean(path: str, **given: Any) -> Any:
    return ditmesh.from_pretrained(path, dtype=torch.bfloat16, device="cpu", **given)


@torch.no_grad()
def step(pipe: Any) -> None:
    """The transformer on 16 tokens of a picture and 8 of text."""
    config = pipe.transformer.config
    pipe.transformer(
        hidden_states=torch.zeros(1, 16, config.in_channels, dtype=torch.bfloat16),
        encoder_hidden_states=torch.zeros(1, 8, config.joint_attention_dim, dtype=torch.bfloat16),
        timestep=torch.tensor([0.5], dtype=torch.bfloat16),
        guidance=torch.tensor([1.0]),
        img_ids=torch.zeros(1, 16, 4),
        txt_ids=torch.zeros(1, 8, 4),
    )


def held(pipe: Any) -> dict[str, tuple[int, int]]:
    """How many numbers and bytes of each parameter are on this rank, by its name in the files."""
    local: dict[str, torch.Tensor] = {}
    for part, module in pipe.components.items():
        for name, x in module.named_parameters() if isinstance(module, nn.Module) else ():
            whole: Any = x
            local[f"{part}.{in_file(part, name)}"] = whole.to_local() if "to_local" in dir(whole) else whole
    return {name: (x.numel(), x.numel() * x.element_size()) for name, x in local.items()}


def pair_of_blocks(pipe: Any) -> int:
    """The bytes of the two largest blocks that run one after the other, where each is whole only while it runs."""
    model = pipe.transformer
    sizes = [
        sum(x.numel() * x.element_size() for x in block.parameters())
        for block in [*model.transformer_blocks, *model.single_transformer_blocks]
    ]
    return max(map(sum, itertools.pairwise(sizes)))


def replicated(everyone: list[dict[str, tuple[int, int]]], folder: Path) -> int:
    """The bytes of what every rank keeps whole."""
    numbers = {name: math.prod(shape) for name, shape in shapes(folder)}
    whole = [name for name in everyone[0] if all(one.get(name, (0, 0))[0] == numbers.get(name) for one in everyone)]
    return sum(everyone[0][name][1] for name in whole)


def in_memory(field: str, file: str = "status") -> int:
    """A field of what the kernel says of this process, in bytes."""
    lines = Path(f"/proc/self/{file}").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def worker(way: str, layout: str, path: str, out: Path) -> None:
    """One rank: load, run a step, and write down what it took."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // world))
    dist.init_process_group("gloo")
    load, arguments = {"stock": stock, "lean": lean}[way], arguments_of(layout)
    step(DiffusionPipeline.from_pretrained(Path(path).parent / "tiny" / "flux2", dtype=torch.bfloat16))
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    base = {"peak": in_memory("VmRSS"), "node": in_memory("Pss:", "smaps_rollup")}
    base |= {"files": in_memory("Pss_File:", "smaps_rollup"), "pid": os.getpid()}
    (out / f"{rank}.base").write_text(json.dumps(base))
    dist.barrier()
    start = time.perf_counter()
    try:
        pipe = load(path, **arguments)
    except (ValueError, TypeError, KeyError, ImportError) as error:
        result: dict[str, Any] = {"refused": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    else:
        loaded = time.perf_counter()
        result = {"loaded": in_memory("VmHWM") - base["peak"], "imported": base["peak"]}
        (out / f"{rank}.loaded").touch()
        step(pipe)
        result |= {"load": loaded - start, "step": time.perf_counter() - loaded}
        everyone: list[dict[str, tuple[int, int]]] = [{} for _ in range(world)]
        dist.all_gather_object(everyone, held(pipe))
        result |= {
            "stepped": in_memory("VmHWM") - base["peak"],  # the step reads what loading only mapped
            "kept": sum(here for _, here in everyone[rank].values()),
            "alike": replicated(everyone, Path(path)),
            "blocks": pair_of_blocks(pipe) if arguments["parallelism_config"].shard_weights else 0,
        }
    (out / f"{rank}.json").write_text(json.dumps(result))
    dist.barrier()
    dist.destroy_process_group()


def more(out: Path, world: int) -> dict[str, int]:
    """How much more the ranks hold by now than before they loaded, and how much of it is pages of files."""
    bases = [json.loads(file.read_text() or "{}") for file in out.glob("*.base")]
    if len(bases) < world or not all(bases):
        return {"node": 0, "files": 0}
    found = {"node": 0, "files": 0}
    for base in bases:
        lines = Path(f"/proc/{base['pid']}/smaps_rollup").read_text().splitlines()
        for name, field in (("node", "Pss:"), ("files", "Pss_File:")):
            found[name] += 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field)) - base[name]
    return found


def measure(way: str, layout: str, path: Path) -> dict[str, Any]:
    """Load once in fresh processes, while the node's memory is looked at twenty times a second."""
    world = arguments_of(layout.partition("+")[0])["parallelism_config"].world_size
    over = threading.Event()
    looks: dict[str, list[dict[str, int]]] = {"loaded": [], "stepped": []}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)

        def watch() -> None:
            while not over.wait(0.05):
                phase = "stepped" if len(list(out.glob("*.loaded"))) == world else "loaded"
                try:
                    looks[phase].append(more(out, world))
                except (OSError, StopIteration):  # a rank has ended
                    continue

        watcher = threading.Thread(target=watch)
        watcher.start()
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={world}"]
        command += ["-m", "benchmarks.load", "--worker", way, layout, str(path), folder]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        over.set()
        watcher.join()
        results = [json.loads(file.read_text()) for file in sorted(out.glob("*.json"))]
    if ended.returncode or len(results) < world:
        return {"refused": f"failed: {ended.stderr[-2000:]}"}
    refused = next((result["refused"] for result in results if "refused" in result), None)
    if refused:
        return {"refused": refused}
    peaks = {
        phase: max(seen, key=lambda look: look["node"], default={"node": 0, "files": 0})
        for phase, seen in looks.items()
    }
    return {
        **{name: max(result[name] for result in results) for name in results[0]},
        **{f"node {phase}": peak["node"] for phase, peak in peaks.items()},
        "files": peaks["stepped"]["files"],
        "node kept": sum(result["kept"] for result in results),
    }


def report(layout: str, way: str, rounds: list[dict[str, Any]], largest: int) -> None:
    """One row."""
    refused = next((one["refused"] for one in rounds if "refused" in one), None)
    if refused:
        print(f"{layout:>22} {way:>6}  not yet: {refused}", flush=True)
        return
    names = [name for name in rounds[0] if name not in ("load", "step")]
    least = {name: min(one[name] for one in rounds) / GIB for name in names}
    load, step = (statistics.median(one[name] for one in rounds) for name in ("load", "step"))
    fair = least["kept"] + largest / GIB
    print(
        f"{layout:>22} {way:>6} {least['imported']:>8.3f} {least['kept']:>7.3f} {least['alike']:>7.3f} "
        f"{least['blocks']:>7.3f} | "
        f"{least['loaded']:>6.3f} {least['loaded'] - fair:>6.3f} {least['node loaded']:>7.3f} "
        f"{least['node loaded'] / least['node kept']:>6.2f} | {least['stepped']:>6.3f} "
        f"{least['stepped'] - fair - least['blocks']:>6.3f} {least['node stepped']:>7.3f} "
        f"{least['node stepped'] / least['node kept']:>6.2f} {least['files']:>6.3f} | {load:>6.2f} {load + step:>7.2f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--gib", type=float, default=6.0, help="size of the checkpoint")
    parser.add_argument("--layouts", nargs="*", default=LAYOUTS)
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=WAYS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the checkpoint lies or is written; kept if it is named")
    arguments = parser.parse_args()
    if arguments.worker:
        way, layout, path, out = arguments.worker
        worker(way, layout, path, Path(out))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder: Path = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        folder /= "checkpoint"
        if not (folder / "model_index.json").exists():
            folder.mkdir(exist_ok=True)
            free = shutil.disk_usage(folder).free
            if free < 1.2 * arguments.gib * GIB:
                sys.exit(f"{folder} has {free / GIB:.1f} GiB of free disk, too little for {arguments.gib} GiB.")
            make(folder, arguments.gib)
        compare(folder, arguments.layouts, arguments.ways, arguments.rounds)


def compare(folder: Path, layouts: list[str], ways: list[str], rounds: int) -> None:
    """Every layout in both ways, in turns."""
    whole = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    largest = 2 * max(math.prod(shape) for _, shape in shapes(folder))
    print(f"checkpoint {whole / GIB:.3f} GiB, its largest tensor {largest / GIB:.3f} GiB; all in GiB and seconds")
    print("a rank: what it takes when all is imported, then what it keeps, what of that all keep, two blocks whole")
    print("'over' is a rank's peak less what it keeps, the largest tensor, and two blocks in a step that gathers them")
    print("'/kept' is the node's peak over what its ranks keep; 'files' is how much of it are pages of files\n")
    print(f"{'':>61} | {'while it loads':^28} | {'through the first step':^35} |      seconds")
    print(
        "                layout    way imported    kept   alike  blocks |   rank   over    node  /kept | "
        "  rank   over    node  /kept  files |   load to step"
    )
    for layout in layouts:
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for way in ways * rounds:
            found[way].append(measure(way, layout, folder))
        for way in ways:
            report(layout, way, found[way], largest)


if __name__ == "__main__":
    main()
