"""Configurations and calls that a fact sheet does not cover are refused by name, and never computed some other way."""

from collections.abc import Callable
from typing import Any

import torch

import ditmesh
from ditmesh import ParallelismConfig
from tests.cases import CASES
from tests.ranks import Ranks
from tests.transformers import forward

SHAPE = (2, (3, 4), 6, False)


def refusal(call: Callable[[], Any]) -> str:
    try:
        call()
    except ValueError as error:
        return str(error)
    return "not refused"


def refusals_of_tensor_parallelism() -> list[str]:
    """A gated feed-forward where the sheet has a plain one, and a parameter for each head."""
    models = [
        CASES["ltx"].build(*SHAPE, activation_fn="geglu")[0],
        CASES["helios"].build(*SHAPE, is_amplify_history=True)[0],
    ]
    layout = ParallelismConfig.parse("tp2")
    return [refusal(lambda model=model: ditmesh.enable_cache(model, parallelism_config=layout)) for model in models]


def refusals_of_context_parallelism(layout: str) -> list[str]:
    """Padding before the text, and a mask of self-attention that its processor pads to the length of a shard."""
    mochi, mochi_inputs = CASES["mochi"].build(*SHAPE)
    mochi_inputs["encoder_attention_mask"] = (torch.arange(6) > 1).expand(2, 6)
    ltx2, ltx2_inputs = CASES["ltx2"].build(*SHAPE)
    ltx2_inputs["video_self_attention_mask"] = torch.ones(2, 12, 12)
    messages = []
    for model, inputs in ((mochi, mochi_inputs), (ltx2, ltx2_inputs)):
        ditmesh.enable_cache(model.eval(), parallelism_config=ParallelismConfig.parse(layout))
        messages.append(refusal(lambda model=model, inputs=inputs: forward(model, inputs)))
    return messages


def test_tensor_parallelism_refuses_what_it_would_mix(ranks: Ranks) -> None:
    for gated, amplified in ranks.run(refusals_of_tensor_parallelism, 2):
        assert "of a GEGLU is not what the fact sheet describes" in gated
        assert "has a parameter for each head" in amplified


def test_context_parallelism_refuses_masks_it_cannot_follow(ranks: Ranks) -> None:
    for padding, mask in ranks.run(refusals_of_context_parallelism, 2, "ulysses2"):
        assert "padding before a token" in padding
        assert "the fact sheet does not cover this call" in mask
