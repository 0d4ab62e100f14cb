"""Hazards, section 10.3: what is asked for and silently dropped elsewhere is done here, or refused by name."""

from typing import Any

import pytest
import torch
from torch import nn

import ditmesh
from ditmesh import ParallelismConfig
from tests.api.test_hazards import FLOAT32, ODD, enabled, refusal, same
from tests.parallel import text_encoders
from tests.parallel.test_text_encoder import assert_equal, one_process
from tests.ranks import Ranks
from tests.transformers import build, forward, relative_error, serial


def test_10_3_01_what_is_misspelt_or_impossible_is_refused() -> None:
    """Keywords that do not exist are ignored, sizes are taken as they come, and meet the world size nowhere."""
    model = build("flux", ODD, FLOAT32)[0]
    two: dict[str, Any] = {"parallelism_config": ParallelismConfig(tp_size=2)}
    assert "cache_confg" in refusal(lambda: ditmesh.enable_cache(model, **two, cache_confg=1), TypeError)
    assert "tp2 needs 2 ranks and this job has 1" in refusal(lambda: ditmesh.enable_cache(model, **two))
    assert "no field 'ulises_size'; did you mean 'ulysses_size'?" in refusal(lambda: ParallelismConfig(ulises_size=2))
    for size in (2.0, "2", True, [2]):
        assert "tp_size must be an int" in refusal(lambda size=size: ParallelismConfig(tp_size=size))
    for size in (0, -2):
        assert f"tp_size={size} is no number of ranks" in refusal(lambda size=size: ParallelismConfig(tp_size=size))


@pytest.mark.parametrize("option", ["ulysses_anything", "ulysses_async", "ulysses_float8"])
def test_10_3_02_modes_that_are_not_there_are_refused(option: str) -> None:
    """A mode is reported as enabled where the model at hand has none."""
    assert f"ParallelismConfig has no field '{option}'" in refusal(lambda: ParallelismConfig(**{option: True}))


def of_another_length(layout: str) -> str:
    model, inputs = enabled("flux", layout)
    return refusal(lambda: model(**inputs | {"img_ids": inputs["img_ids"][1:]}))


def test_10_3_02_a_tensor_that_cannot_be_cut_is_refused(ranks: Ranks) -> None:
    """A tensor that is not as the plan expects is left whole with a warning, and the ranks go out of step."""
    messages = ranks.run(of_another_length, 2, "ulysses2")
    assert messages == ["a tensor has 24 positions along the image stream, which has 25."] * 2


def another_processor() -> str:
    """Of the last layer."""
    model, _ = build("wan", ODD, FLOAT32)
    model.blocks[-1].attn2.processor = nn.Identity()
    config = ParallelismConfig(ulysses_size=2)
    return refusal(lambda: ditmesh.enable_cache(model, parallelism_config=config))


def test_10_3_03_every_processor_is_looked_at(ranks: Ranks) -> None:
    """Only the first attention processor of a model is checked."""
    assert all("blocks.1.attn2 holds a Identity" in message for message in ranks.run(another_processor, 2))


def kernels(name: str, layout: str) -> tuple[float, set[str]]:
    """The error with a kernel that was chosen, and the names of those that ran."""
    model, inputs = enabled(name, layout, attention_backend="_native_math")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        got = forward(model, inputs)
    ran = {event.key for event in profile.key_averages() if "scaled_dot_product" in event.key}
    return relative_error(got, serial(name, ODD, FLOAT32)), ran


@pytest.mark.parametrize(("name", "layout"), [("ltx", "tp2"), ("cogvideox", "tp2"), ("krea2", "ulysses2")])
def test_10_3_04_the_kernel_that_was_chosen_runs(ranks: Ranks, name: str, layout: str) -> None:
    """Processors are wrapped or forwards replaced, and the choice of a kernel reaches neither."""
    for error, ran in ranks.run(kernels, 2, name, layout):
        assert error <= 1e-5
        assert not any("flash" in kernel for kernel in ran), ran


def test_10_3_05_more_ranks_than_heads_are_refused_and_fewer_key_heads_shared(ranks: Ranks) -> None:
    """Heads of text encoders are divided by the ranks without a look: 6 on 4 ranks, or one key-value head on 2."""
    refused = ranks.run(text_encoders.refusal, 4, 4, "Gemma3ForCausalLM-2")
    assert all("has 2 heads, which 4 ranks cannot share; use at most 2 ranks" in message for message in refused)
    for name, world in (("T5EncoderModel-ungated", 4), ("Qwen3Model", 2)):
        for got, _, _ in ranks.run(text_encoders.parallel, world, world, name, FLOAT32, **text_encoders.prompts()):
            assert_equal(got, one_process(name, FLOAT32))


@pytest.mark.parametrize(
    ("name", "layout"),
    [("ltx", "ring2"), ("pixart", "ring2.ulysses2"), ("hunyuan_video", "ulysses3"), ("ltx2", "ring2.ulysses2")],
)
def test_10_3_07_masks_are_cut_as_their_tokens_are(ranks: Ranks, name: str, layout: str) -> None:
    """Masks are made for heads divided by all ranks, or cut evenly where the tokens are not."""
    same(ranks, name, layout, shape="masked")
