"""Time one forward of a layout against the bare model in the same run, and count the bytes each rank sends.

    python -m benchmarks.step ulysses2 ring2 tp2 --model flux --repeat 20

Prints a ratio of medians per layout. "single" is the enabled model without a layout: its ratio is the overhead.
"""

import argparse
import os
import statistics
import tempfile
import time
from functools import partial

import diffusers
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

import ditmesh
from ditmesh import ParallelismConfig
from tests.counting import CommunicationCounter

HEADS, HEAD_DIM, TOKENS, TEXT = 8, 32, 1024, 128
WIDTH = HEADS * HEAD_DIM


def flux() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A FLUX.1 of 8 heads x 32 with 4 + 8 blocks, on 1024 image and 128 text tokens."""
    model = diffusers.FluxTransformer2DModel(
        in_channels=16,
        num_layers=4,
        num_single_layers=8,
        attention_head_dim=HEAD_DIM,
        num_attention_heads=HEADS,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=64,
        axes_dims_rope=(8, 12, 12),
    )
    return model.eval(), {
        "hidden_states": torch.randn(1, TOKENS, 16),
        "encoder_hidden_states": torch.randn(1, TEXT, WIDTH),
        "pooled_projections": torch.randn(1, 64),
        "timestep": torch.tensor([0.5]),
        "img_ids": torch.randn(TOKENS, 3).round(),
        "txt_ids": torch.zeros(TEXT, 3),
    }


def wan() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A Wan of 8 heads x 32 with 8 blocks, on 1024 video tokens."""
    model = diffusers.WanTransformer3DModel(
        num_attention_heads=HEADS,
        attention_head_dim=HEAD_DIM,
        in_channels=16,
        out_channels=16,
        text_dim=WIDTH,
        ffn_dim=4 * WIDTH,
        num_layers=8,
    )
    return model.eval(), {
        "hidden_states": torch.randn(1, 16, 4, 32, 32),
        "encoder_hidden_states": torch.randn(1, TEXT, WIDTH),
        "timestep": torch.tensor([500]),
    }


MODELS = {"flux": flux, "wan": wan}


def seconds(step: partial, repeat: int) -> list[float]:
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return times


@torch.no_grad()
def measure(rank: int, world: int, meeting: str, layout: str, model: str, repeat: int) -> None:
    """One rank: the bare model and the enabled one in turns, so that a drifting machine hits both."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // world))
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    torch.manual_seed(0)
    enabled, inputs = MODELS[model]()
    torch.manual_seed(0)
    bare, _ = MODELS[model]()
    ditmesh.enable_cache(enabled, parallelism_config=ParallelismConfig.parse(layout))
    run_bare, run_enabled = (partial(m, **inputs, return_dict=False) for m in (bare, enabled))
    with CommunicationCounter() as counter:
        difference = (run_bare()[0] - run_enabled()[0]).abs().max().item()
    pairs: list[tuple[float, float]] = []
    for _ in range(repeat):
        # The bare model runs alone: one process on the whole machine is what a layout has to beat.
        alone = seconds(run_bare, 1)[0] if rank == 0 else 0.0
        if world > 1:
            dist.barrier()
        pairs.append((alone, seconds(run_enabled, 1)[0]))
        if world > 1:
            dist.barrier()
    if rank == 0:
        report(layout, pairs, counter, difference)


def report(layout: str, pairs: list[tuple[float, float]], counter: CommunicationCounter, difference: float) -> None:
    """One row: the ratio of medians, the two medians, what rank 0 sent and how far the results are apart."""
    bare, enabled = (statistics.median(column) for column in zip(*pairs, strict=True))
    megabytes, calls = counter.total_bytes / 1e6, sum(counter.calls.values())
    print(
        f"{layout:>20} {enabled / bare:>12.3f} {bare * 1e3:>9.1f} {enabled * 1e3:>9.1f} {megabytes:>9.2f} {calls:>6} "
        f"{difference:>17.1e}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layouts", nargs="*", default=["ulysses2", "ring2", "tp2"])
    parser.add_argument("--model", choices=MODELS, default="flux")
    parser.add_argument("--repeat", type=int, default=15)
    arguments = parser.parse_args()
    print("              layout  step / bare   bare ms   step ms   MB sent  calls      |difference|")
    for layout in ["single", *arguments.layouts]:
        world = ParallelismConfig.parse(layout).world_size
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(measure, (world, f"{folder}/meeting", layout, arguments.model, arguments.repeat), nprocs=world)


if __name__ == "__main__":
    main()
