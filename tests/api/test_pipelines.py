"""Whole image pipelines, with their text encoders and VAEs, equal one process."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

import ditmesh
from ditmesh import ParallelismConfig
from tests.ranks import Ranks
from tests.tiny import TINY, call_kwargs, tiny_path

# What diffusers does itself: ERNIE-Image reads a tensor as numpy 2 no longer likes, Chroma is made of an old class.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*FluxPosEmbed:FutureWarning"),
]
ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3", "vision_language_encoder")
LAYOUTS = ("tp2", "ulysses2", "ring2")
# Films have tests of their own, and Cosmos 3 has no fact sheet.
IMAGE_PIPELINES = [name for name, tiny in TINY.items() if "num_frames" not in tiny.call and name != "cosmos3"]
ONLY = {"flux2_klein_kv": "tp2"}  # its processors keep keys and values between steps: no sequence may be cut
EIGHT = "ring2.ulysses2.tp2"
TOLERANCE = 2e-5  # of pixels in [0, 1], after guidance and a random VAE
# They encode a megapixel, one pixel of which is near zero: one process in float32 is 3e-5 from float64 there.
LARGE = dict.fromkeys(("qwen_image_edit", "qwen_image_edit_plus", "qwen_image_layered"), 1e-4)


def picture(path: Path, call: dict[str, Any], layout: str | None) -> np.ndarray:
    """What a pipeline draws, alone or spread over ranks with every text encoder and the VAE."""
    pipe = DiffusionPipeline.from_pretrained(path)
    pipe.set_progress_bar_config(disable=True)
    if layout:
        config = ParallelismConfig.parse(layout)
        extras = [name for name in (*ENCODERS, "vae") if name in pipe.components]
        ditmesh.enable_cache(
            pipe,
            parallelism_config=ParallelismConfig(
                ulysses_size=config.ulysses_size,
                ring_size=config.ring_size,
                tp_size=config.tp_size,
                parallel_kwargs={"extra_parallel_modules": extras},
            ),
        )
    torch.manual_seed(0)  # some pipelines draw what they encode from torch's own generator
    return np.asarray(pipe(**call, generator=torch.Generator().manual_seed(0), output_type="np")[0])


def check(ranks: Ranks, folder: Path, name: str, layout: str) -> None:
    path, call = tiny_path(name, folder), call_kwargs(name)
    with torch.no_grad():
        want = picture(path, call, None)
    assert want.std() > 0.05
    for got in ranks.run(picture, ParallelismConfig.parse(layout).world_size, path, call, layout):
        assert np.abs(got - want).max() <= LARGE.get(name, TOLERANCE)


@pytest.mark.parametrize(
    ("name", "layout"),
    [(name, ONLY.get(name, LAYOUTS[i % len(LAYOUTS)])) for i, name in enumerate(IMAGE_PIPELINES)],
)
def test_an_image_pipeline_on_two_ranks_equals_one_process(
    ranks: Ranks, tmp_path: Path, name: str, layout: str
) -> None:
    check(ranks, tmp_path, name, layout)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flux2", "qwen_image"])
def test_a_pipeline_on_eight_ranks_equals_one_process(ranks: Ranks, tmp_path: Path, name: str) -> None:
    check(ranks, tmp_path, name, EIGHT)
