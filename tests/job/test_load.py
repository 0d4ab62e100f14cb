"""A loaded pipeline on its device, or offloaded."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from ditmesh.job.load import offload_groups
from tests.tiny import call_kwargs, tiny_path


def drawn(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return np.asarray(pipe(**call_kwargs("flux"), generator=torch.Generator().manual_seed(0), output_type="np").images)


@pytest.mark.parametrize("kind", ["block_level", "leaf_level"])
def test_groups_are_offloaded_without_a_trace(tmp_path: Path, kind: str) -> None:
    pipe: Any = DiffusionPipeline.from_pretrained(tiny_path("flux", tmp_path))
    want = drawn(pipe)
    offload_groups(pipe, ["transformer"], kind, torch.device("cpu"))
    for part in (pipe.transformer, pipe.vae, pipe.text_encoder, pipe.text_encoder_2):
        assert any("_diffusers_hook" in vars(module) for module in part.modules())
    assert np.array_equal(drawn(pipe), want)
