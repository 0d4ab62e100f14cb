"""Time a cached step of the demonstration model against its share of a full one, in processor time of the same run.

    python benchmarks/cached_step.py --repeat 30

Two ratios for each number of first and last blocks that run: against (Fn + Bn) / blocks of a full step, and against
what a full step takes but for the blocks that are left out, which is the least a cached step can take.
"""

import argparse
import statistics
import time
from pathlib import Path

import diffusers
import torch
from torch import nn

import ditmesh
from ditmesh import DBCacheConfig

MODEL = Path(ditmesh.__file__).parent / "demo_model"


def seconds(model: nn.Module, inputs: dict[str, torch.Tensor]) -> float:
    start = time.process_time()
    model(**inputs, return_dict=False)
    return time.process_time() - start


def block_seconds(blocks: list[nn.Module], model: nn.Module, inputs: dict[str, torch.Tensor]) -> list[float]:
    """What each block takes in one forward."""
    started, spent = 0.0, [0.0] * len(blocks)

    def begin(*_: object) -> None:
        nonlocal started
        started = time.process_time()

    handles = []
    for i, block in enumerate(blocks):
        handles.append(block.register_forward_pre_hook(begin))
        handles.append(block.register_forward_hook(lambda *_, i=i: spent.__setitem__(i, time.process_time() - started)))
    model(**inputs, return_dict=False)
    for handle in handles:
        handle.remove()
    return spent


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=30)
    repeat = parser.parse_args().repeat
    torch.set_num_threads(1)
    bare, cached = (
        diffusers.FluxTransformer2DModel.from_pretrained(MODEL, subfolder="transformer").eval() for _ in range(2)
    )
    config = bare.config
    inputs = {
        "hidden_states": torch.randn(1, 256, config["in_channels"]),
        "encoder_hidden_states": torch.randn(1, 32, config["joint_attention_dim"]),
        "pooled_projections": torch.randn(1, config["pooled_projection_dim"]),
        "timestep": torch.tensor([0.5]),
        "img_ids": torch.randn(256, 3).round(),
        "txt_ids": torch.zeros(32, 3),
    }
    blocks = [*bare.transformer_blocks, *bare.single_transformer_blocks]
    print("setting  full ms  cached ms  / share of blocks  / blocks that run")
    for first, last in ((1, 0), (1, 1), (2, 1)):
        always = DBCacheConfig(
            Fn_compute_blocks=first, Bn_compute_blocks=last, residual_diff_threshold=0.999, max_warmup_steps=1
        )
        ditmesh.enable_cache(cached, cache_config=always)
        cached(**inputs, return_dict=False)
        times, parts = [], []
        for _ in range(repeat):
            times.append((seconds(bare, inputs), seconds(cached, inputs)))
            parts.append(block_seconds(blocks, bare, inputs))
        full, hit = (statistics.median(column) for column in zip(*times, strict=True))
        left_out = sum(
            statistics.median(column) for column in list(zip(*parts, strict=True))[first : len(blocks) - last]
        )
        share = full * (first + last) / len(blocks)
        print(
            f"F{first}B{last}  {full * 1e3:10.2f} {hit * 1e3:10.2f} {hit / share:18.2f} {hit / (full - left_out):18.2f}"
        )
        assert ditmesh.summary(cached, logging=False)[0].cached_steps[-1] == repeat
        ditmesh.disable_cache(cached)


if __name__ == "__main__":
    main()
