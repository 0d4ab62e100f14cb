"""What it takes to load a FLUX.2 onto ranks: host memory of each rank and of the node, and the time to the first step.

    python -m benchmarks.load --gib 6
    python -m benchmarks.load --gib 0.5 --layouts tp2 ulysses4+shard_weights --rounds 1

Makes a random checkpoint of FLUX.2's architecture in sharded safetensors. Each layout is loaded in fresh processes, all
its ranks at once, in two ways that take turns: "stock" is DiffusionPipeline.from_pretrained and then enable_cache,
"lean" is ditmesh.from_pretrained. Memory counts from when everything is imported and the ranks have met. A rank's peak
counts the pages of files it maps, the node's counts shared ones once. Files lie in the page cache, where they were
written. Prints the least memory and the median time of the rounds.
"""

import argparse
import json
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from diffusers import DiffusionPipeline, Flux2Transformer2DModel, PipelineQuantizationConfig, TorchAoConfig
from safetensors.torch import save_file
from torch import nn
from torchao.quantization import Int8WeightOnlyConfig
from transformers import AutoConfig, Mistral3ForConditionalGeneration

import ditmesh
from ditmesh import ParallelismConfig
from tests.tiny import tiny_path

GIB = 2**30
LAYOUTS = ["tp1", "tp2", "tp4", "pp4", "ulysses2.tp2", "ulysses4+shard_weights", "tp2+int8"]
WAYS = ["stock", "lean"]
SHARD = GIB // 4  # bytes of a file
BLOCKS = 4  # of two streams, and about six times as many of one, as in FLUX.2
TEXT_LAYERS = 32  # FLUX.2 reads layers 10, 20 and 30
# As the language model inside was saved before it had a name of its own.
RENAMED = (("model.language_model.", "language_model.model."), ("lm_head.", "language_model.lm_head."), ("model.", ""))


def make(folder: Path, gib: float) -> None:
    """Write the checkpoint: two fifths text encoder, the rest transformer, of as many heads as that gives blocks."""
    shutil.copytree(tiny_path("flux2", folder / "tiny"), folder, dirs_exist_ok=True)
    text = AutoConfig.from_pretrained(folder / "text_encoder")
    width = max(256, int(math.sqrt(0.4 * gib * GIB / 29 / TEXT_LAYERS)) // 256 * 256)
    text.text_config.update(
        {
            "vocab_size": 8 * width,
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": TEXT_LAYERS,
            "head_dim": 64,
            "num_attention_heads": width // 64,
            "num_key_value_heads": width // 128,
        }
    )
    with torch.device("meta"):
        encoder = Mistral3ForConditionalGeneration(text)
    rest = (gib * GIB - size(encoder)) / 2
    heads = max(4, int(math.sqrt(rest / (104 * BLOCKS + 15))) // 512 * 4)
    square = (128 * heads) ** 2  # a block of two streams has 26 of these, one of a single stream 13, and 15 are shared
    with torch.device("meta"):
        transformer = Flux2Transformer2DModel(
            in_channels=16,
            num_layers=BLOCKS,
            num_single_layers=max(4, int(rest / square - 26 * BLOCKS - 15) // 13),
            num_attention_heads=heads,
            joint_attention_dim=3 * width,
        )
    transformer.save_config(folder / "transformer")
    text.save_pretrained(folder / "text_encoder")
    write(transformer, folder / "transformer", "diffusion_pytorch_model")
    write(encoder, folder / "text_encoder", "model")
    shutil.rmtree(folder / "tiny")


def size(model: nn.Module) -> int:
    """Bytes in bfloat16."""
    return sum(2 * x.numel() for x in model.state_dict().values())


def in_file(part: str, name: str) -> str:
    """What a weight of a component is called in its file."""
    old, new = next((pair for pair in RENAMED if part == "text_encoder" and name.startswith(pair[0])), ("", ""))
    return new + name.removeprefix(old)


def write(model: nn.Module, folder: Path, name: str) -> None:
    """Random weights in files of a quarter GiB with an index, of which no more than one is ever in memory."""
    (folder / f"{name}.safetensors").unlink(missing_ok=True)
    files: list[dict[str, torch.Size]] = [{}]
    held = 0
    for key, x in model.state_dict().items():
        if files[-1] and held + 2 * x.numel() > SHARD:
            files.append({})
            held = 0
        files[-1][in_file(folder.name, key)] = x.shape
        held += 2 * x.numel()
    pool = torch.randn(2**20 + 7).mul_(0.02).to(torch.bfloat16)
    weight_map = {}
    for number, shapes in enumerate(files, 1):
        file = f"{name}-{number:05}-of-{len(files):05}.safetensors"
        save_file({key: drawn(shape, pool) for key, shape in shapes.items()}, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(shapes, file)
    index = {"metadata": {"total_size": size(model)}, "weight_map": weight_map}
    (folder / f"{name}.safetensors.index.json").write_text(json.dumps(index))


def drawn(shape: torch.Size, pool: torch.Tensor) -> torch.Tensor:
    """Numbers of the pool over and over, from a random one on."""
    flat = torch.empty(math.prod(shape), dtype=torch.bfloat16)
    for start in range(0, len(flat), len(pool)):
        piece = flat[start : start + len(pool)]
        piece.copy_(pool.roll(random.randrange(len(pool)))[: len(piece)])
    return flat.view(shape)


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
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    base = {"peak": in_memory("VmRSS"), "pss": in_memory("Pss:", "smaps_rollup")}
    (out / f"{rank}.base").write_text(json.dumps(base | {"pid": os.getpid()}))
    dist.barrier()
    start = time.perf_counter()
    try:
        pipe = {"stock": stock, "lean": lean}[way](path, **arguments_of(layout))
    except (ValueError, TypeError, KeyError, ImportError) as error:
        result: dict[str, Any] = {"refused": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    else:
        loaded = time.perf_counter()
        step(pipe)
        done = time.perf_counter()
        everyone: list[dict[str, tuple[int, int]]] = [{} for _ in range(world)]
        dist.all_gather_object(everyone, held(pipe))
        result = {
            "peak": in_memory("VmHWM") - base["peak"],  # the step reads what loading only mapped
            "kept": sum(here for _, here in everyone[rank].values()),
            "alike": replicated(everyone, Path(path)),
            "load": loaded - start,
            "step": done - loaded,
        }
    (out / f"{rank}.json").write_text(json.dumps(result))
    dist.barrier()
    dist.destroy_process_group()


def pss(out: Path) -> Iterator[int]:
    """How much more the ranks hold by now than before they loaded."""
    for file in out.glob("*.base"):
        base = json.loads(file.read_text() or "{}")
        if base:
            lines = Path(f"/proc/{base['pid']}/smaps_rollup").read_text().splitlines()
            yield 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) - base["pss"]


def measure(way: str, layout: str, path: Path) -> dict[str, Any]:
    """Load once in fresh processes, while the node's memory is looked at twenty times a second."""
    world = arguments_of(layout.partition("+")[0])["parallelism_config"].world_size
    over, peaks = threading.Event(), [0]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)

        def watch() -> None:
            while not over.wait(0.05):
                try:
                    peaks.append(sum(pss(out)))
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
    return {
        **{name: max(result[name] for result in results) for name in ("peak", "kept", "alike", "load", "step")},
        "node": max(peaks),
        "node kept": sum(result["kept"] for result in results),
    }


def report(layout: str, way: str, rounds: list[dict[str, Any]], whole: int, largest: int) -> None:
    """One row."""
    refused = next((one["refused"] for one in rounds if "refused" in one), None)
    if refused:
        print(f"{layout:>22} {way:>6}  not yet: {refused}", flush=True)
        return
    least = {name: min(one[name] for one in rounds) / GIB for name in ("peak", "kept", "alike", "node", "node kept")}
    load, step = (statistics.median(one[name] for one in rounds) for name in ("load", "step"))
    over = least["peak"] - least["kept"] - largest / GIB
    print(
        f"{layout:>22} {way:>6} {least['kept']:>9.3f} {least['alike']:>7.3f} {least['peak']:>9.3f} {over:>7.3f} "
        f"{least['peak'] * GIB / whole:>8.2f} {least['node']:>9.3f} {least['node'] / least['node kept']:>7.2f} "
        f"{least['node'] * GIB / whole:>8.2f} {load:>8.2f} {load + step:>8.2f}",
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
        if not (folder / "model_index.json").exists():
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
    print("'over' is a rank's peak less what it keeps and the largest tensor; 'alike' is kept whole by all ranks\n")
    print(
        "                layout    way rank keeps   alike rank peak    over  /whole node peak   /kept  /whole ", end=""
    )
    print("    load  to step")
    for layout in layouts:
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for way in ways * rounds:
            found[way].append(measure(way, layout, folder))
        for way in ways:
            report(layout, way, found[way], whole, largest)


def shapes(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """The name and shape of every tensor, as the heads of the files say."""
    for file in folder.rglob("*.safetensors"):
        with file.open("rb") as opened:
            head = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
        for name, entry in head.items():
            if name != "__metadata__":
                yield f"{file.parent.name}.{name}", entry["shape"]


if __name__ == "__main__":
    main()
