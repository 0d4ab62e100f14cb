"""Layouts have one spelling, and a wrong one is refused with what would work."""

import pickle
import re
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ditmesh import ParallelismConfig
from ditmesh.checks import check_layout
from ditmesh.config import AXES, WORDS

SIZES = st.fixed_dictionaries({f"{axis}_size": st.integers(1, 2 if axis == "cfg" else 9) for axis in AXES})


@given(SIZES)
def test_a_layout_parses_back(sizes: dict[str, int]) -> None:
    config = ParallelismConfig(**sizes)
    assert ParallelismConfig.parse(str(config)) == config


def test_the_spelling() -> None:
    assert str(ParallelismConfig(ulysses_size=4, tp_size=2)) == "ulysses4.tp2"
    assert str(ParallelismConfig()) == "single"
    assert ParallelismConfig.parse("tp2.ring3") == ParallelismConfig(ring_size=3, tp_size=2)
    assert ParallelismConfig.parse("dp2.cfg2.pp2.ring2.ulysses2.tp2").world_size == 64


@pytest.mark.parametrize(
    ("word", "world", "layout"),
    [
        ("tp", 4, "tp4"), ("ulysses", 8, "ulysses8"), ("ring", 3, "ring3"), ("usp", 8, "ring2.ulysses4"),
        ("ulysses_tp", 8, "ulysses4.tp2"), ("tp_ulysses", 8, "ulysses2.tp4"), ("ring_tp", 8, "ring4.tp2"),
        ("tp_ring", 8, "ring2.tp4"), ("usp_tp", 8, "ring2.ulysses2.tp2"), ("ulysses_tp", 4, "ulysses2.tp2"),
        ("tp", 1, "single"),
    ],
)  # fmt: skip
def test_words_share_the_world_out(word: str, world: int, layout: str) -> None:
    assert str(ParallelismConfig.parse(word, world)) == layout


@given(st.sampled_from(list(WORDS)), st.integers(1, 64))
def test_a_word_fills_the_world_or_is_refused(word: str, world: int) -> None:
    try:
        config = ParallelismConfig.parse(word, world)
    except ValueError:
        assert world % 2 or word == "usp_tp"
    else:
        assert config.world_size == world


@given(st.text(max_size=12))
def test_any_text_is_a_layout_or_a_value_error(text: str) -> None:
    try:
        config = ParallelismConfig.parse(text, 8)
    except ValueError:
        return
    assert ParallelismConfig.parse(str(config)) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ulyses4", "there is no axis 'ulyses'; did you mean 'ulysses'?"),
        ("ulyses", "did you mean 'ulysses'?"),
        ("tp", "needs a number of ranks"),
        ("tp.ring2", "'tp' lacks its number of ranks; write tp2"),
        ("tp2.tp4", "names tp twice"),
        ("tp0", "tp_size=0 is no number of ranks"),
        ("", "is no layout"),
        ("ulysses4,tp2", "Axes are joined by dots, as in 'ulysses2.tp2'."),
    ],
)
def test_a_wrong_layout_says_what_would_work(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ParallelismConfig.parse(text)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tp_size": "2"}, "tp_size must be an int, not '2' of type str; write tp_size=2."),
        ({"tp_size": 2.5}, "tp_size must be an int, not 2.5"),
        ({"tp_size": True}, "tp_size must be an int, not True"),
        ({"ring_size": -1}, "ring_size=-1 is no number of ranks"),
        ({"cfg_size": 3}, "guidance has two branches"),
        ({"shard_weights": 1, "ulysses_size": 2}, "shard_weights is 1, and it is True or False."),
        ({"shard_weights": True}, "in layout single there are none; add an axis that has them, such as ulysses_size=2"),
        ({"shard_weights": True, "dp_size": 2, "pp_size": 2}, "in layout dp2.pp2 there are none"),
        ({"ulyses_size": 2}, "ParallelismConfig has no field 'ulyses_size'; did you mean 'ulysses_size'?"),
        ({"parallel_kwargs": {"extra_paralel_modules": []}}, "did you mean 'extra_parallel_modules'?"),
    ],
)
def test_a_wrong_field_says_what_would_work(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ParallelismConfig(**fields)


def test_a_config_is_a_value() -> None:
    config = ParallelismConfig(ulysses_size=2, tp_size=None, parallel_kwargs={"extra_parallel_modules": ["vae"]})  # type: ignore[arg-type]
    assert config.tp_size == 1
    assert config.extra_parallel_modules == ("vae",)
    assert pickle.loads(pickle.dumps(config)) == config
    assert replace(config, tp_size=4).world_size == 8
    assert str(replace(config, shard_weights=True)) == str(config)
    with pytest.raises(FrozenInstanceError):
        config.tp_size = 2  # type: ignore[misc]


def test_the_published_refusal() -> None:
    message = (
        "tp_size=5 does not divide FLUX.1's 24 attention heads; use 1, 2, 3, 4, 6, 8, 12 or 24, "
        "or cut the sequence instead: ring_size=5."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_layout(ParallelismConfig(tp_size=5), "FluxTransformer2DModel", {"num_attention_heads": 24})


def test_an_unknown_transformer_is_named() -> None:
    with pytest.raises(ValueError, match="no fact sheet for UNet2DConditionModel"):
        check_layout(ParallelismConfig(), "UNet2DConditionModel", {})
