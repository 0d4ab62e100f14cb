"""What a sheet can say beyond where tensors are cut: what it does not cover is refused, by name."""

import pytest
import torch
from torch import nn

import ditmesh
from ditmesh import ParallelismConfig
from ditmesh.checks import check_layout
from ditmesh.upstream.modules import expand
from tests.ranks import RankFailure, Ranks
from tests.transformers import SHAPES, build, forward


def test_minus_one_is_the_last_child() -> None:
    model = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(1, 1), nn.ReLU(), nn.Tanh()]), "none": nn.ModuleList()})
    assert [name for name, _ in expand(model, "blocks.-1")] == ["blocks.2"]
    assert expand(model, "none.-1?") == []


def test_a_configuration_the_sheet_is_not_right_for_is_refused() -> None:
    config = {"num_attention_heads": 8, "activation_fn": "geglu"}
    with pytest.raises(
        ValueError, match="covers activation_fn 'gelu-approximate' or 'gelu', and this model has 'geglu'"
    ):
        check_layout(ParallelismConfig(tp_size=2), "DiTTransformer2DModel", config)


def test_key_and_value_heads_are_counted_too() -> None:
    config = {"num_attention_heads": 24, "num_kv_heads": 8}
    check_layout(ParallelismConfig(tp_size=8), "Lumina2Transformer2DModel", config)
    with pytest.raises(ValueError, match=r"tp_size=3 does not divide Lumina-Image 2\.0's 8 key and value heads"):
        check_layout(ParallelismConfig(tp_size=3), "Lumina2Transformer2DModel", config)


def masked_forward(layout: str) -> None:
    model, inputs = build("cogview4", SHAPES["odd"], torch.float32)
    ditmesh.enable_cache(model, parallelism_config=ParallelismConfig.parse(layout))
    forward(model, inputs | {"attention_mask": torch.ones(1, 7)})


def test_an_argument_that_shards_cannot_honour_is_refused(ranks: Ranks) -> None:
    with pytest.raises(RankFailure, match="CogView4Transformer2DModel was given attention_mask"):
        ranks.run(masked_forward, 2, "ulysses2")


def few_tokens() -> None:
    model, inputs = build("allegro", (1, (1, 1), 3, False), torch.float32)
    ditmesh.enable_cache(model, parallelism_config=ParallelismConfig.parse("ring3"))
    forward(model, inputs)


def test_a_shard_too_small_for_the_model_is_refused(ranks: Ranks) -> None:
    with pytest.raises(RankFailure, match=r"blocks\.0 was given 4 tokens for 3 ranks.* be at most 2, or use"):
        ranks.run(few_tokens, 3)


@pytest.mark.parametrize("name", ["lumina2", "krea2", "z_image"])
def test_taking_a_layout_back_restores_the_counts_of_heads(ranks: Ranks, name: str) -> None:
    for got, want in ranks.run(there_and_back, 2, name):
        assert torch.equal(got, want)


def there_and_back(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    model, inputs = build(name, SHAPES["odd"], torch.float32)
    want = forward(model, inputs)
    ditmesh.enable_cache(model, parallelism_config=ParallelismConfig.parse("tp2"))
    ditmesh.disable_cache(model)
    return forward(model, inputs), want
