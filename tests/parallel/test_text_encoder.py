"""Every text encoder shared over ranks returns what one process does, and says what it could not share."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import ditmesh
from ditmesh import ParallelismConfig
from ditmesh.api import kept_whole
from ditmesh.runtime.collectives import shard_sizes
from tests import transformers
from tests.parallel import text_encoders
from tests.parallel.text_encoders import (
    ENCODERS,
    LAYERS,
    VOCABULARY,
    build,
    outputs,
    prompt_with_picture,
    prompts,
    size,
)
from tests.ranks import Ranks
from tests.transformers import relative_error

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
SEE = [name for name in ENCODERS if name.startswith(("Mistral3", "Gemma3ForCond")) or "VL" in name]


@cache
def one_process(name: str, dtype: torch.dtype) -> list[Tensor]:
    with torch.no_grad():
        return outputs(build(name, dtype), prompts())


def assert_equal(got: list[Tensor], want: list[Tensor]) -> None:
    assert len(got) == len(want) == LAYERS + 2
    for mine, whole in zip(got, want, strict=True):
        assert whole.isfinite().all()
        assert whole.std() > 1e-2
        assert relative_error(mine, whole) <= TOLERANCE[whole.dtype]


@pytest.mark.matrix
@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("name", ENCODERS)
def test_shared_equals_whole(ranks: Ranks, name: str, world: int, dtype: torch.dtype) -> None:
    want = one_process(name, dtype)
    for got, _, _ in ranks.run(text_encoders.parallel, world, world, name, dtype, **prompts()):
        assert_equal(got, want)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(
    "name", ["T5EncoderModel", "UMT5EncoderModel", "LlamaModel", "Qwen3Model", "Gemma3ForCausalLM"]
)
def test_without_a_mask_and_by_either_attention(ranks: Ranks, name: str, attention: str) -> None:
    tokens = prompts()["input_ids"]
    want = outputs(build(name, torch.float32, attention), {"input_ids": tokens})
    for got, _, _ in ranks.run(text_encoders.parallel, 3, 3, name, torch.float32, attention, input_ids=tokens):
        assert_equal(got, want)


@pytest.mark.parametrize("name", SEE)
def test_pictures_reach_the_language_model(ranks: Ranks, name: str) -> None:
    inputs = prompt_with_picture(name)
    want = outputs(build(name), inputs)
    blind = outputs(build(name), {key: inputs[key] for key in prompts()})
    assert relative_error(blind[0], want[0]) > 1e-2
    for got, _, whole in ranks.run(text_encoders.parallel, 2, 2, name, torch.float32, **inputs):
        assert_equal(got, want)
        assert any("MiB, only language models are sharded" in line for line in whole)


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "Qwen3ForCausalLM", "GlmForCausalLM"])
def test_prompts_are_continued_alike(ranks: Ranks, name: str) -> None:
    want = text_encoders.generated(1, name)
    assert all(torch.equal(got, want) for got in ranks.run(text_encoders.generated, 3, 3, name))


@pytest.mark.parametrize("name", ENCODERS)
def test_every_rank_keeps_its_share_only(ranks: Ranks, name: str) -> None:
    model = build(name)
    language = getattr(model, "language_model", getattr(getattr(model, "model", model), "language_model", None))
    whole = size(model) if language is None else size(language)
    beside = size(model) - whole
    sizes = {
        world: [kept for _, kept, _ in ranks.run(text_encoders.parallel, world, world, name, **prompts())]
        for world in (2, 4)
    }
    assert max(sizes[2]) - beside < 0.56 * whole
    assert max(sizes[4]) - beside < 0.34 * whole


@pytest.mark.parametrize("name", ["LlamaModel", "T5EncoderModel", "Qwen3ForCausalLM", "GlmForCausalLM"])
def test_matrices_are_halved_by_two_ranks(ranks: Ranks, name: str) -> None:
    matrices = sum(x.numel() for x in build(name).parameters() if x.ndim == 2)
    rest = size(build(name)) - matrices
    kept = [kept for _, kept, _ in ranks.run(text_encoders.parallel, 2, 2, name, **prompts())]
    assert sum(kept) - 2 * rest == matrices


@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("name", ["LlamaModel", "T5EncoderModel", "UMT5EncoderModel", "Qwen3ForCausalLM"])
def test_one_all_reduce_for_each_row_shard_and_one_for_the_embeddings(ranks: Ranks, name: str, world: int) -> None:
    tokens, width = prompts()["input_ids"].numel(), 24 if "T5" in name else 64
    logits = tokens * VOCABULARY * 4 if name.endswith("ForCausalLM") else 0
    for rank, (calls, sent) in enumerate(ranks.run(text_encoders.communication, world, world, name)):
        assert calls.pop("allreduce_") == 2 * LAYERS + 1
        assert sent.pop("allreduce_") == (2 * LAYERS + 1) * (2 * tokens * width * 4 * (world - 1) // world)
        mine = shard_sizes(VOCABULARY, world)[rank] if logits else 0
        assert calls == ({"alltoall_base_": 1} if logits else {})
        assert sum(sent.values()) == tokens * mine * 4 * (world - 1)


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("name", ENCODERS)
def test_undo_puts_everything_back(ranks: Ranks, name: str, world: int) -> None:
    assert all(ranks.run(text_encoders.undone, world, world, name))


def test_what_every_rank_keeps_whole_is_said(ranks: Ranks) -> None:
    for name, expected in [
        ("CLIPTextModel", ["CLIPTextModel: 0.0 MiB, it is small"]),
        ("BertModel", ["BertModel: 0.0 MiB, it is small"]),
        ("Mistral3Model", [
            "vision_tower (PixtralVisionModel): 0.0 MiB, only language models are sharded",
            "multi_modal_projector (Mistral3MultiModalProjector): 0.0 MiB, only language models are sharded",
        ]),
        ("LlamaForCausalLM", []),
        ("LlamaModel", []),
        ("T5EncoderModel", []),
    ]:  # fmt: skip
        assert ranks.run(text_encoders.kept_whole, 2, 2, name) == [expected] * 2


class Pipe:
    """As much of a pipeline as is asked for its parts."""

    def __init__(self) -> None:
        self.components = {"transformer": transformers.build("dit", transformers.SHAPES["even"], torch.float32)[0]}
        self.components["text_encoder"] = build("CLIPTextModel")

    def progress_bar(self) -> None:
        """What a request begins with."""


def told_of_a_pipeline() -> list[list[str]]:
    pipe: Any = Pipe()
    told = [kept_whole(pipe)]
    extras = {"extra_parallel_modules": ["text_encoder"]}
    ditmesh.enable_cache(pipe, parallelism_config=ParallelismConfig(tp_size=2, parallel_kwargs=extras))
    told.append(kept_whole(pipe))
    ditmesh.disable_cache(pipe)
    return [*told, kept_whole(pipe)]


def test_what_every_rank_keeps_whole_can_be_asked_of_a_pipeline(ranks: Ranks) -> None:
    assert ranks.run(told_of_a_pipeline, 2) == [[[], ["CLIPTextModel: 0.0 MiB, it is small"], []]] * 2


@pytest.mark.parametrize(
    ("world", "name", "spoil", "message"),
    [
        (2, "Phi3Model", "", "Phi3Model.layers.0.self_attn.qkv_proj does not write whole heads for the 8 that"),
        (
            2,
            "Olmo2Model",
            "",
            "Olmo2Model.layers.0.self_attn.q_norm.weight is not of one head, and the tensor-parallel plan",
        ),
        (
            2,
            "LlamaModel",
            "layers.1.mlp.up_proj",
            "LlamaModel.layers.1.mlp.up_proj is a Identity, which text-encoder parallelism",
        ),
        (
            4,
            "Gemma3ForCausalLM-2",
            "",
            "Gemma3ForCausalLM.model.layers.0.self_attn has 2 heads, which 4 ranks cannot share; use at most 2",
        ),
    ],
)
def test_what_cannot_be_shared_is_refused_by_name(
    ranks: Ranks, world: int, name: str, spoil: str, message: str
) -> None:
    assert all(message in refused for refused in ranks.run(text_encoders.refusal, world, world, name, spoil))
