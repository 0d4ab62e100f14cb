"""Whole video pipelines, with their text encoders and VAEs shared over the ranks too, equal one process."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

import ditmesh
from ditmesh import ParallelismConfig
from tests.ranks import Ranks
from tests.tiny import call_kwargs, tiny_path

BOUND = 2e-5  # of pixels in [0, 1] and sound in [-1, 1], after guidance and a random VAE


@dataclass(frozen=True)
class Film:
    """What a pipeline made, and this rank's part in it."""

    made: dict[str, np.ndarray]  # frames, and sound where there is some
    weights: int  # of the text encoders
    rows: int  # of latents in the VAE's decoder


def film(path: Path, call: dict[str, Any], layout: str) -> Film:
    pipe = DiffusionPipeline.from_pretrained(path)
    pipe.set_progress_bar_config(disable=True)
    encoders = [name for name in pipe.components if name.startswith("text_encoder")]
    config, rows = ParallelismConfig.parse(layout), list[int]()
    if config.world_size > 1:
        ditmesh.enable_cache(pipe, parallelism_config=replace(config, extra_parallel_modules=(*encoders, "vae")))
    # Some convolutions return a cache too.
    pipe.vae.decoder.conv_in.register_forward_hook(
        lambda module, args, output: rows.append((output[0] if isinstance(output, tuple) else output).shape[-2])
    )
    made = vars(pipe(**call, generator=torch.Generator().manual_seed(0), output_type="np"))
    weights = sum(weight.numel() for name in encoders for weight in pipe.components[name].parameters())
    return Film({name: np.asarray(x) for name, x in made.items() if x is not None}, weights, max(rows))


def check(ranks: Ranks, root: Path, name: str, layout: str) -> None:
    path, call = tiny_path(name, root), call_kwargs(name)
    with torch.no_grad():
        want = film(path, call, "single")
    for got in ranks.run(film, ParallelismConfig.parse(layout).world_size, path, call, layout):
        assert got.made.keys() == want.made.keys()
        for kind, expected in want.made.items():
            assert np.isfinite(expected).all()
            assert np.abs(got.made[kind] - expected).max() <= BOUND, kind
        assert got.weights < want.weights
        assert got.rows < want.rows


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("ltx2", "tp2"),
        ("ltx2_i2v", "ulysses2"),
        ("wan_i2v", "ring2"),
        ("wan_ti2v", "tp2"),
        ("wan_two", "ulysses2"),
        ("wan_vace", "ring2"),
        ("skyreels_v2", "tp2"),
        ("helios", "ulysses2"),
        ("anyflow", "ring2"),
        ("ltx", "tp2"),
        ("cogvideox", "ulysses2"),
        ("mochi", "ring2"),
        ("hunyuan_video", "ulysses2"),
        ("hunyuan_video_i2v", "ring2"),
        ("hunyuan_video15", "ring2"),
        ("hunyuan_video_framepack", "tp2"),
    ],
)
def test_two_ranks_equal_one_process(ranks: Ranks, tmp_path: Path, name: str, layout: str) -> None:
    check(ranks, tmp_path, name, layout)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ltx2", "wan"])
def test_eight_ranks_in_three_axes_equal_one_process(ranks: Ranks, tmp_path: Path, name: str) -> None:
    check(ranks, tmp_path, name, "ring2.ulysses2.tp2")
