"""How far PipeFusion's pictures are from the exact ones, on the demo model.

    python benchmarks/pipefusion.py --steps 28 --pictures 2

Prints the PSNR against one process for each number of stages and steps of warm-up, as many patches as stages.
"""

import argparse
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from diffusers import FluxPipeline

import ditmesh
from ditmesh import ParallelismConfig

MODEL = Path(ditmesh.__file__).parent / "demo_model"
CAPTIONS = [
    "a large red circle in the centre on a white background",
    "a small blue square on the left on a black background",
]


def draw(pipe: FluxPipeline, steps: int, pictures: int) -> np.ndarray:
    """[B, H, W, 3] in 0..1, with guidance."""
    captions = [CAPTIONS[i % len(CAPTIONS)] for i in range(pictures)]
    made = pipe(
        prompt=captions,
        negative_prompt=[""] * pictures,
        true_cfg_scale=3.0,
        guidance_scale=0.0,
        max_sequence_length=32,
        height=128,
        width=128,
        num_inference_steps=steps,
        generator=[torch.Generator().manual_seed(i) for i in range(pictures)],
        output_type="np",
    )
    return made.images


def psnr(got: np.ndarray, want: np.ndarray) -> float:
    """In decibels, of values in 0..1."""
    return float(-10 * np.log10(max(((got - want) ** 2).mean(), 1e-20)))


def measure(rank: int, world: int, meeting: str, warmups: list[int], arguments: Any) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    pipe = FluxPipeline.from_pretrained(MODEL)
    pipe.set_progress_bar_config(disable=True)
    want = draw(pipe, arguments.steps, arguments.pictures)
    for warmup in warmups:
        ditmesh.enable_cache(pipe, parallelism_config=ParallelismConfig(pp_size=world, warmup_steps=warmup))
        got = draw(pipe, arguments.steps, arguments.pictures)
        ditmesh.disable_cache(pipe)
        if rank == 0:
            print(f"{world:>6} {warmup:>8} {psnr(got, want):>10.1f} {np.abs(got - want).mean():>18.5f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", type=int, nargs="*", default=[2, 4])
    parser.add_argument("--warmup", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--pictures", type=int, default=2)
    arguments = parser.parse_args()
    print("stages  warm-up   PSNR dB  mean |difference|")
    for world in arguments.stages:
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(measure, (world, f"{folder}/meeting", arguments.warmup, arguments), nprocs=world)


if __name__ == "__main__":
    main()
