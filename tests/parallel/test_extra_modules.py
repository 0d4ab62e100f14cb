"""Text encoders and VAEs beside the transformer: the whole pipeline equals one process, and can be taken back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

import ditmesh
from ditmesh import ParallelismConfig
from tests.ranks import Ranks
from tests.tiny import call_kwargs, tiny_path


def picture(path: Path, call: dict, layout: str | None, extras: tuple[str, ...]) -> tuple[np.ndarray, int, bool]:
    """What a pipeline draws, how many parameters its extra modules hold, and whether disabling brings them back."""
    pipe = DiffusionPipeline.from_pretrained(path)
    pipe.set_progress_bar_config(disable=True)
    whole = count(pipe, extras)
    if layout:
        config = ParallelismConfig.parse(layout)
        modules = [pipe.components[name] for name in extras]
        ditmesh.enable_cache(
            pipe,
            parallelism_config=ParallelismConfig(
                ulysses_size=config.ulysses_size,
                ring_size=config.ring_size,
                tp_size=config.tp_size,
                parallel_kwargs={"extra_parallel_modules": modules},
            ),
        )
    held = count(pipe, extras)
    drawn = pipe(**call, generator=torch.Generator().manual_seed(0), output_type="np")
    if layout:
        ditmesh.disable_cache(pipe)
    return np.asarray(vars(drawn)[next(iter(vars(drawn)))]), held, count(pipe, extras) == whole


def count(pipe: DiffusionPipeline, names: tuple[str, ...]) -> int:
    return sum(parameter.numel() for name in names for parameter in pipe.components[name].parameters())


@pytest.mark.parametrize(
    ("name", "extras", "layout"),
    [
        ("flux", ("text_encoder", "text_encoder_2", "vae"), "ulysses2"),
        ("qwen_image", ("text_encoder", "vae"), "tp2"),
        ("wan", ("text_encoder", "vae"), "ring2.ulysses2"),
        ("flux2", ("text_encoder", "vae"), "ulysses2.tp2"),
    ],
)
def test_the_whole_pipeline_equals_one_process(
    ranks: Ranks, tmp_path: Path, name: str, extras: tuple[str, ...], layout: str
) -> None:
    path, call = tiny_path(name, tmp_path), call_kwargs(name)
    with torch.no_grad():
        want, whole, _ = picture(path, call, None, extras)
    for got, held, is_back in ranks.run(
        picture, ParallelismConfig.parse(layout).world_size, path, call, layout, extras
    ):
        assert np.abs(got - want).max() <= 2e-5  # of pixels in [0, 1], after guidance and a random VAE
        assert held < whole
        assert is_back
