"""What ranks save is whole, whoever saves and wherever; LoRA weights that cannot be loaded change nothing."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from diffusers import FluxPipeline, FluxTransformer2DModel
from peft import get_peft_model_state_dict
from torch import Tensor

import ditmesh
from ditmesh import ParallelismConfig
from ditmesh.runtime.mesh import TIMEOUT
from tests.api.test_api import state
from tests.ranks import Ranks
from tests.upstream.test_lora import lora

pytestmark = pytest.mark.slow


SHARED = {"tp2": ["text_encoder_2"], "pp2": ["text_encoder_2"], "ulysses2": [], "dp2": []}


def enabled(flux: str, layout: str, *shared: str) -> Any:
    pipe = FluxPipeline.from_pretrained(flux)
    pipe.set_progress_bar_config(disable=True)
    config = replace(ParallelismConfig.parse(layout), extra_parallel_modules=shared)
    return ditmesh.enable_cache(pipe, parallelism_config=config)


def same(got: dict[str, Tensor], want: dict[str, Tensor]) -> bool:
    return got.keys() == want.keys() and all(torch.equal(got[name], want[name]) for name in want)


def saved(flux: str, layout: str, folder: Path) -> list[bool]:
    """Whether what ranks save is whole: all into one folder, read at once; each into its own; and one alone."""
    pipe, plain, rank = enabled(flux, layout, *SHARED[layout]), FluxPipeline.from_pretrained(flux), dist.get_rank()
    right = []
    for where in (folder / "all", folder / "all", folder / str(rank)):
        dist.barrier()  # nobody reads what the save before wrote in more files
        pipe.save_pretrained(where, max_shard_size="100KB" if where.name == "all" and not right else "10GB")
        again = FluxPipeline.from_pretrained(where)
        for name in ("transformer", "text_encoder", "text_encoder_2", "vae"):
            right.append(same(again.components[name].state_dict(), plain.components[name].state_dict()))
    right.append(not [file for file in folder.rglob("*") if "-of-" in file.name or file.name.startswith(".")])
    if layout == "ulysses2" and rank == 1:
        pipe.save_pretrained(folder / "alone")
        again = FluxPipeline.from_pretrained(folder / "alone")
        right.append(same(again.transformer.state_dict(), plain.transformer.state_dict()))
    if layout == "tp2":
        weights = lora(plain.transformer, 5, prefix="transformer.")
        pipe.load_lora_weights(weights, adapter_name="style")
        pipe.save_lora_weights(
            folder / "lora", transformer_lora_layers=get_peft_model_state_dict(pipe.transformer, adapter_name="style")
        )
        right.append(same(FluxPipeline.lora_state_dict(folder / "lora"), weights))
    return right


@pytest.mark.parametrize("layout", SHARED)
def test_what_ranks_save_into_one_folder_is_whole_at_once(ranks: Ranks, flux: str, tmp_path: Path, layout: str) -> None:
    for right in ranks.run(saved, 2, flux, layout, tmp_path):
        assert all(right), right


def alone(flux: str, folder: Path) -> tuple[list[str], bool]:
    """What rank 0 is told that saves alone what both have a share of, and whether both can later."""
    os.environ[TIMEOUT] = "1"
    try:
        pipe, told = enabled(flux, "tp2"), []
        if dist.get_rank() == 0:
            for call in (lambda: pipe.transformer.save_pretrained(folder), pipe.transformer.state_dict):
                with pytest.raises(RuntimeError) as error:
                    call()
                told.append(str(error.value))
        dist.barrier()
        os.environ[TIMEOUT] = "60"
        whole = FluxTransformer2DModel.from_pretrained(Path(flux) / "transformer").state_dict()
        return told, same(pipe.transformer.state_dict(), whole)
    finally:
        del os.environ[TIMEOUT]


def test_a_rank_that_saves_alone_is_told_who_is_missing(ranks: Ranks, flux: str, tmp_path: Path) -> None:
    ranks.rest()
    (told, right), (_, there) = ranks.run(alone, 2, flux, tmp_path)
    ranks.rest()
    late = (
        f"rank 1 did not come within {TIMEOUT}=1 seconds; each rank has a share of the weights: call it on all ranks."
    )
    assert told == [f"{what} of FluxTransformer2DModel: {late}" for what in ("save_pretrained", "state_dict")]
    assert right
    assert there


def fails(flux: str, folder: Path) -> str:
    """What a rank says when the one that writes cannot."""
    pipe = enabled(flux, "tp2")
    (folder / "file").touch()
    with pytest.raises((RuntimeError, FileExistsError)) as error:
        pipe.transformer.save_pretrained(folder / "file")
    return f"{type(error.value).__name__}: {error.value}"


def test_a_rank_that_cannot_write_is_an_error_of_all(ranks: Ranks, flux: str, tmp_path: Path) -> None:
    first, second = ranks.run(fails, 2, flux, tmp_path)
    assert first.startswith("FileExistsError")
    assert (
        second == "RuntimeError: save_pretrained of FluxTransformer2DModel: rank 0 could not; its own error says why."
    )


def loads(flux: str, layout: str) -> tuple[str, bool, bool]:
    """What LoRA weights for a shared text encoder meet, whether that changed anything, and whether others load."""
    pipe, plain = enabled(flux, layout, "text_encoder_2"), FluxPipeline.from_pretrained(flux)
    weights = lora(plain.transformer, 5, prefix="transformer.")
    before = state(pipe.transformer), state(pipe.text_encoder_2)
    with pytest.raises(ValueError, match="does not go with text encoder") as error:
        pipe.load_lora_weights(weights | lora(plain.text_encoder_2, 6, prefix="text_encoder_2."))
    is_same = before == (state(pipe.transformer), state(pipe.text_encoder_2))
    pipe.load_lora_weights(weights)
    return str(error.value), is_same, before != (state(pipe.transformer), state(pipe.text_encoder_2))


@pytest.mark.parametrize("layout", ["tp2", "ulysses2"])
def test_weights_for_a_shared_text_encoder_are_refused_before_any_is_loaded(
    ranks: Ranks, flux: str, layout: str
) -> None:
    for told, is_same, is_loaded in ranks.run(loads, 2, flux, layout):
        assert "load_lora_weights (text_encoder_2) of T5EncoderModel" in told
        assert "fuse it first" in told
        assert (is_same, is_loaded) == (True, True)
