"""The configurations that ship are those of the checkpoints: as many weights as their makers say, and as measured."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ditmesh import ParallelismConfig
from ditmesh.job.description import Job
from ditmesh.job.example import Example
from ditmesh.job.facts import read_json, read_pipeline
from ditmesh.planner.checkpoints import checkpoints, configs_of
from ditmesh.planner.rehearsal import rehearse
from ditmesh.upstream.hollow_models import build_hollow, class_of

BILLIONS = {
    "FLUX.1-dev": 11.9, "FLUX.1-schnell": 11.9, "FLUX.2-dev": 32.2, "FLUX.2-klein-4B": 3.88,
    "FLUX.2-klein-base-4B": 3.88,
    "FLUX.2-klein-9B": 9.08, "FLUX.2-klein-base-9B": 9.08, "Qwen-Image": 20.4, "Qwen-Image-2512": 20.4,
    "Qwen-Image-Edit": 20.4, "Qwen-Image-Edit-2509": 20.4, "Z-Image": 6.15, "Z-Image-Turbo": 6.15,
    "stable-diffusion-3.5-large": 8.06, "PixArt-Sigma-XL-2-1024-MS": 0.61, "Wan2.1-T2V-14B-Diffusers": 14.3,
    "Wan2.1-T2V-1.3B-Diffusers": 1.42, "Wan2.2-T2V-A14B-Diffusers": 14.3, "Wan2.2-TI2V-5B-Diffusers": 5.0,
    "HunyuanVideo": 12.8, "HunyuanVideo-1.5-Diffusers-480p_t2v": 8.33, "LTX-Video": 1.92, "LTX-2": 18.9,
    "CogVideoX-5b": 5.57,
}  # fmt: skip
GIB = 2**30


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.parametrize("model", checkpoints())
def test_transformers_have_as_many_weights_as_published(model: str) -> None:
    library, class_name, _ = checkpoints()[model]["transformer"]
    config = read_json(configs_of(model), "transformer/config.json")
    built = build_hollow(class_of(library, class_name), config, torch.bfloat16)
    billions = sum(x.numel() for x in built.parameters()) / 1e9
    assert billions == pytest.approx(BILLIONS[model.rpartition("/")[2]], rel=0.02)


def test_full_size_weights_are_those_measured() -> None:
    """docs/planner.md: FLUX.2 [dev], its text encoder over all 8 ranks."""
    folder = configs_of("black-forest-labs/FLUX.2-dev")
    facts = read_pipeline(folder)
    layout = replace(ParallelismConfig.parse("ulysses4.tp2"), extra_parallel_modules=("text_encoder", "vae"))
    example = Example("dev", facts.class_name, folder, "", 28)
    call = {"prompt": "a cat holding a sign", "num_inference_steps": 28, "height": 1024, "width": 1024}
    found = rehearse(Job(example, folder, facts, layout, call), 0)
    assert found.weights["transformer"] / GIB == pytest.approx(30.17, abs=0.01)
    assert found.weights["text_encoder"] / GIB == pytest.approx(6.31, abs=0.01)
    [step] = [phase for phase in found.phases if phase.name == "step"]
    products = sum(one.flops * one.count for one in step.operators if one.kind == "matmul")
    assert products / 1e12 == pytest.approx(31.69, abs=0.01)
    assert step.repeats == 28
    tokens, width = 4096 + 512, 6144
    # 4 (S/U) h b (U-1)/U L of Ulysses with h/2, and 2 (T-1)/T S h b for each sum over two ranks.
    ulysses = 4 * (tokens // 4) * (width // 2) * 2 * 3 // 4 * 56
    sums = (2 * 8 + 48) * (tokens // 4) * width * 2
    sent = dict.fromkeys(("all_to_all", "all_reduce"), 0)
    for one in step.messages:
        if one.collective in sent:
            sent[one.collective] += one.bytes * one.count
    assert sent == {"all_to_all": ulysses, "all_reduce": sums}


def test_a_cache_that_cannot_be_written_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    assert read_pipeline(configs_of("Tongyi-MAI/Z-Image")).class_name.startswith("ZImage")
    assert configs_of("somebody/something") == "somebody/something"
