"""How near PipeFusion's pictures come to the exact ones, on the demo model.

    python -m benchmarks.pipefusion

Draws captions the model was never trained on, in one process and then in stages, as many patches as stages, for each
number of stages and of steps of warm-up. Prints the PSNR against one process, and the share of pictures that read as
their captions say: in each of their words, and in all of them.
"""

import argparse
import random
import tempfile
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from diffusers import FluxPipeline
from PIL import Image
from torch import Tensor

import ditmesh
from demo.judge import MODEL, pictures, scores
from demo.reader import read
from demo.shapes import Scene, split
from ditmesh import ParallelismConfig

GUIDANCE = 3.0  # that of the judge


def load() -> FluxPipeline:
    pipe = FluxPipeline.from_pretrained(MODEL)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def psnr(got: Tensor, want: Tensor) -> float:
    """In decibels, of values in 0..255."""
    return float(-10 * torch.log10((((got - want) / 255) ** 2).mean().clamp(min=1e-20)))


def report(stages: int, warmup: int | str, near: str, made: Tensor, scenes: list[Scene]) -> None:
    """One row; the judge's words come last."""
    shares = scores(scenes, [read(picture) for picture in made])
    row = [stages, warmup, near, *(f"{share:.0%}" for share in shares.values())]
    print("".join(f"{cell:>11}" for cell in row), flush=True)


def measure(
    rank: int, world: int, folder: str, exact: Tensor, scenes: list[Scene], options: argparse.Namespace
) -> None:
    """One rank of so many stages; the first one reports, and leaves the pictures."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    pipe, rows = load(), list[Tensor]()
    for warmup in options.warmup:
        ditmesh.enable_cache(pipe, parallelism_config=ParallelismConfig(pp_size=world, warmup_steps=warmup))
        rows.append(pictures(pipe, list(map(str, scenes)), options.steps, GUIDANCE, options.seed))
        ditmesh.disable_cache(pipe)
        if rank == 0:
            report(world, warmup, f"{psnr(rows[-1], exact):.1f}", rows[-1], scenes)
    if rank == 0:
        torch.save(rows, f"{folder}/rows")


def side_by_side(rows: list[Tensor], shown: int) -> Image.Image:
    """The first pictures of each row, row below row."""
    whole = torch.cat([torch.cat(list(row[:shown]), dim=-1) for row in rows], dim=-2)
    return Image.fromarray(whole.round().clamp(0, 255).byte().permute(1, 2, 0).numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", type=int, nargs="*", default=[2, 4])
    parser.add_argument("--warmup", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--count", type=int, default=20, help="captions to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", type=Path, help="where the first pictures go: a row exact, then a row a setting")
    options = parser.parse_args()
    scenes = random.Random(options.seed).sample(split()[1], options.count)
    titles = ["stages", "warm-up", "PSNR dB", *scores(scenes, scenes)]
    print("".join(f"{title:>11}" for title in titles))
    exact = pictures(load(), list(map(str, scenes)), options.steps, GUIDANCE, options.seed)
    report(1, "", "exact", exact, scenes)
    rows = [exact]
    for world in options.stages:
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(measure, (world, folder, exact, scenes, options), nprocs=world)
            rows += torch.load(f"{folder}/rows")
    if options.sheet:
        side_by_side(rows, 8).save(options.sheet)


if __name__ == "__main__":
    main()
