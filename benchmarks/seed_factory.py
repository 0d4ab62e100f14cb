"""`ditmesh t2i` on 16 ranks of a CPU, against one process: every picture of the demo model, in dB.

    python benchmarks/seed_factory.py [--pictures 16] [--steps 4]

The ranks are forked from one process that has imported all there is to import, so 16 of them fit on a small machine.
"""

import argparse
import math
import multiprocessing as mp
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import ditmesh

DEMO = Path(ditmesh.__file__).parent / "demo_model"
CFG = ["--negative_prompt", "a blue square", "--true_cfg_scale", "2"]
LAYOUTS = {
    "dp2.ring2.ulysses4": [
        *["--num_gpus", "16", "--batch_size", "16"],
        *["--ulysses_degree", "4", "--ring_degree", "2", "--data_parallel_degree", "2"],
    ],
    "cfg2.pp2.ulysses2.tp2": [
        *["--num_gpus", "16", "--use_cfg_parallel", "--pipefusion_parallel_degree", "2", "--num_pipeline_patch", "1"],
        *["--ulysses_degree", "2", "--tensor_parallel_degree", "2", *CFG],
    ],
}
COLOURS, SHAPES = ("red", "green", "blue", "yellow"), ("circle", "square", "triangle", "ring")


def be_rank(rank: int, world: int, port: int, arguments: list[str]) -> None:
    """One rank of the command, as torchrun would have started it."""
    from ditmesh.cli import main

    if world > 1:
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        values = (rank, rank, world, world, "127.0.0.1", port)
        os.environ.update(zip(names, map(str, values), strict=True), TORCHELASTIC_USE_AGENT_STORE="True")
    main(["t2i", "--model_name", str(DEMO), *arguments])


def run(world: int, arguments: list[str]) -> float:
    """The command on so many ranks; its seconds."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    context, began = mp.get_context("forkserver"), time.perf_counter()
    context.set_forkserver_preload(["ditmesh.cli.t2i.run", "diffusers.pipelines.flux.pipeline_flux"])
    ranks = [context.Process(target=be_rank, args=(rank, world, store.port, arguments)) for rank in range(world)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    if any(process.exitcode for process in ranks):
        sys.exit(f"exit codes {[process.exitcode for process in ranks]}")
    return time.perf_counter() - began


def pixels(folder: Path) -> dict[str, np.ndarray]:
    names = sorted(path.name for path in folder.glob("0*.png"))
    return {name: np.asarray(Image.open(folder / name), dtype=np.float64) for name in names}


def psnr(ours: np.ndarray, theirs: np.ndarray) -> float:
    error = ((ours - theirs) ** 2).mean()
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--steps", type=int, default=4)
    asked = parser.parse_args()
    prompts = [f"a {COLOURS[i % 4]} {SHAPES[i // 4 % 4]}" for i in range(asked.pictures)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "prompts.txt").write_text("\n".join(prompts))
        common = ["--prompts_file", str(folder / "prompts.txt"), "--num_inference_steps", str(asked.steps)]
        for layout, flags in LAYOUTS.items():
            spread, alone = folder / layout, folder / f"alone.{layout}"
            seconds = run(16, [*common, *flags, "--output_dir", str(spread)])
            run(1, [*common, *(CFG if "cfg" in layout else []), "--output_dir", str(alone)])
            ours, theirs = pixels(spread), pixels(alone)
            assert list(ours) == list(theirs)
            assert len(ours) == asked.pictures
            least = min(psnr(ours[name], theirs[name]) for name in ours)
            most = max(abs(ours[name] - theirs[name]).max() for name in ours)
            print(
                f"{layout}: {len(ours)} pictures in {seconds:.0f} s; least PSNR {least:.1f} dB, {most:.0f}/255 at most"
            )


if __name__ == "__main__":
    main()
