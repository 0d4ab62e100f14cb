"""The most that is alive at once is what the CPU's allocator says of the same call."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from torch.profiler import ProfilerActivity, profile

from ditmesh.planner.memory import Memory
from ditmesh.planner.rehearsal import rehearse
from ditmesh.upstream.hollow import Watch
from tests.planner.jobs import job

SIZES = [(64, 96), (128, 128), (192, 256)]


def allocated(folder: str, call: dict) -> int:
    """The peak of a real call until the latents are there: convolutions of a CPU take memory that a GPU's do not."""
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        pipe(**call, generator=torch.Generator().manual_seed(0), output_type="latent")
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


@pytest.mark.parametrize("name", ["flux", "wan"])
def test_peak_is_the_allocators(name: str, tmp_path: Path) -> None:
    asked = job(name, "single", tmp_path)
    for height, width in SIZES:
        call = {**asked.call, "height": height, "width": width}
        found = rehearse(replace(asked, call=call), 0)
        predicted = max(phase.activation_peak for phase in found.phases if phase.name in ("encode", "step"))
        assert predicted == pytest.approx(allocated(asked.model, call), rel=0.02)


def test_peak_of_the_decoder_is_that_of_real_tensors(tmp_path: Path) -> None:
    asked = job("flux", "single", tmp_path)
    memory = Memory()
    pipe = DiffusionPipeline.from_pretrained(asked.model)
    pipe.set_progress_bar_config(disable=True)
    with torch.no_grad(), Watch(lambda func, args, kwargs, out: memory.made(func, out)):
        pipe(**asked.call, generator=torch.Generator().manual_seed(0), output_type="pt")
    [decode] = [phase for phase in rehearse(asked, 0).phases if phase.name == "decode"]
    assert decode.activation_peak == pytest.approx(memory.peak, rel=0.02)
