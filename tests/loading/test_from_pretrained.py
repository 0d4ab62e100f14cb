"""``ditmesh.from_pretrained`` gives what ``from_pretrained`` and ``enable_cache`` give."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel, PipelineQuantizationConfig, TorchAoConfig
from peft import LoraConfig
from torchao.quantization import Int8WeightOnlyConfig

import ditmesh
from ditmesh import DBCacheConfig, ParallelismConfig
from ditmesh.loading.reading import nothing_read, read_in
from tests.loading import lean
from tests.ranks import Ranks
from tests.tiny import call_kwargs, tiny_path

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def layout(text: str, *extras: str) -> ParallelismConfig:
    return replace(ParallelismConfig.parse(text), parallel_kwargs={"extra_parallel_modules": list(extras)})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.mark.parametrize(
    ("name", "text", "extras"),
    [
        ("flux", "tp2", ["text_encoder_2", "vae"]),
        ("flux2", "tp2", ["text_encoder"]),
        ("wan_two", "pp2", ["text_encoder", "vae"]),
        ("ltx2", "ulysses2", ["text_encoder"]),
        ("qwen_image_controlnet", "tp2", ["text_encoder", "controlnet"]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
def test_every_part_is_the_same(
    ranks: Ranks, tiny: Path, name: str, text: str, extras: list[str], dtype: torch.dtype
) -> None:
    ranks.run(lean.pipelines_are_same, 2, tiny_path(name, tiny), layout(text, *extras), dtype=dtype)


def test_it_draws_what_one_process_draws(ranks: Ranks, tiny: Path) -> None:
    folder, call = tiny_path("flux", tiny), call_kwargs("flux")
    want = lean.drawn(folder, call, None)
    cached = {"cache_config": DBCacheConfig(Fn_compute_blocks=1, residual_diff_threshold=0.0)}
    for more in ({}, cached):
        for got in ranks.run(lean.drawn, 2, folder, call, layout("tp2", "text_encoder_2", "vae"), **more):
            assert np.abs(got - want).max() <= 2e-5


@pytest.mark.parametrize("text", ["tp2", "ulysses2"])
def test_weights_are_quantized_as_they_are_read(ranks: Ranks, tiny: Path, text: str) -> None:
    folder, call = tiny_path("flux", tiny), call_kwargs("flux")
    quantizer = PipelineQuantizationConfig(quant_mapping={"transformer": TorchAoConfig(Int8WeightOnlyConfig())})
    int8 = {"dtype": torch.float32, "quantization_config": quantizer}
    plain, want = lean.drawn(folder, call, None), lean.drawn(folder, call, None, **int8)
    assert np.abs(want - plain).max() > 1e-4
    for got in ranks.run(lean.drawn, 2, folder, call, layout(text), **int8):
        assert np.abs(got - want).max() <= 2e-5


def test_lora_weights_are_loaded_first(ranks: Ranks, tiny: Path, tmp_path: Path) -> None:
    folder = tiny_path("flux", tiny)
    model = FluxTransformer2DModel.from_pretrained(folder / "transformer")
    model.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_out.0"], init_lora_weights=False))
    model.save_lora_adapter(tmp_path)
    ranks.run(lean.pipelines_are_same, 2, folder, layout("tp2"), lora=tmp_path, dtype=torch.bfloat16)


def test_without_a_layout_it_is_only_loaded(tiny: Path) -> None:
    folder = tiny_path("flux", tiny)
    pipe = ditmesh.from_pretrained(folder, dtype=torch.bfloat16)
    assert type(pipe) is FluxPipeline
    want = FluxPipeline.from_pretrained(folder, dtype=torch.bfloat16)
    lean.assert_same(pipe.transformer, want.transformer)
    assert ditmesh.from_pretrained(folder, use_safetensors=True).vae is not None
    with pytest.raises(ValueError, match="not enabled"):
        ditmesh.disable_cache(pipe)


def test_a_component_that_was_given_is_used_as_it_is(tiny: Path) -> None:
    folder = tiny_path("flux", tiny)
    mine = FluxTransformer2DModel.from_pretrained(folder / "transformer")
    pipe = ditmesh.from_pretrained(folder, transformer=mine, cache_config=DBCacheConfig(Fn_compute_blocks=1), vae=None)
    assert pipe.transformer is mine
    assert pipe.vae is None
    ditmesh.disable_cache(pipe)


def test_a_variant_and_one_file_are_read_too(tiny: Path, tmp_path: Path) -> None:
    folder = tiny_path("flux", tiny)
    want = FluxTransformer2DModel.from_pretrained(folder / "transformer", dtype=torch.float16)
    want.save_pretrained(tmp_path / "v", variant="fp16")
    file = next((tmp_path / "v").glob("*.safetensors"))
    with nothing_read():
        variant = FluxTransformer2DModel.from_pretrained(tmp_path / "v", variant="fp16", dtype=torch.float16)
        single = FluxTransformer2DModel.from_single_file(str(file), config=str(tmp_path / "v"), dtype=torch.float16)
    for model in (variant, single):
        read_in([model], lean.CPU)
        lean.assert_same(model, want)


def test_pickles_are_read_whole_if_they_are_trusted(ranks: Ranks, tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "flux"
    shutil.copytree(tiny_path("flux", tiny), folder)
    model = FluxTransformer2DModel.from_pretrained(folder / "transformer")
    next((folder / "transformer").glob("*.safetensors")).unlink()
    model.save_pretrained(folder / "transformer", safe_serialization=False)
    want = lean.drawn(tiny_path("flux", tiny), call_kwargs("flux"), None)
    for got in ranks.run(lean.drawn, 2, folder, call_kwargs("flux"), layout("tp2"), allow_pickle=True):
        assert np.abs(got - want).max() <= 2e-5


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"device_map": "balanced"}, "device_map: diffusers would place"),
        ({"use_safetensors": False}, "asks for pickles"),
        ({"parallelism_config": ParallelismConfig(tp_size=2)}, "needs 2 ranks and this job has 1"),
        ({"lora": "/nowhere"}, "/nowhere cannot be loaded"),
        ({"cache_config": DBCacheConfig()}, "Fn_compute_blocks=8 .* are more than the 4 blocks"),
    ],
)
def test_what_cannot_be_is_refused(tiny: Path, given: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        ditmesh.from_pretrained(tiny_path("flux", tiny), **given)


def test_what_is_refused_half_way_leaves_the_ranks_as_they_were(ranks: Ranks, tiny: Path) -> None:
    for told in ranks.run(lean.refused, 2, tiny_path("flux", tiny), layout("tp2"), cache_config=DBCacheConfig()):
        assert "are more than the 4 blocks" in told


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be loaded"):
        ditmesh.from_pretrained(tmp_path)
