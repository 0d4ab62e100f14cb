"""Every sheet's transformer, called by hand with two branches of guidance, equals one process on two ranks."""

from typing import Any

import pytest
import torch
from torch import Tensor

import ditmesh
from ditmesh import ParallelismConfig
from tests.cases import CASES, float32_inside, variants
from tests.ranks import Ranks
from tests.transformers import SHAPES, Inputs, build, forward, relative_error

CACHED = {"anyflow_far:cached": "kv_cache", "qwen_image21:cached": "kv_cache"}
CACHED |= dict.fromkeys(["wan_animate2", "wan_animate2:cached", "wan_animate2:no_picture"], "kv_cache")
REFUSED = CACHED | {"omnigen:picture": "input_img_latents"}
# What samples of one batch have in common: a layout, a style of which there are few, and whether there is a picture.
ALIKE = ("img_mask", "style", "image_embeds")
NAMES = [*CASES, *(f"{name}:{variant}" for name in CASES for variant in variants(name))]
SPREAD = [(name, ("odd", "batch2")[i % 2]) for i, name in enumerate(NAMES) if name not in REFUSED]


def doubled(name: str, shape: tuple[Any, ...]) -> tuple[torch.nn.Module, Inputs]:
    """A transformer and a batch that holds the same latents twice, and nothing else: all that may differ does."""
    model, inputs = build(name, (2 * shape[0], *shape[1:]), torch.float64)
    named = "x" if "x" in inputs else "hidden_states"
    latents = inputs[named]
    half = len(latents) // 2
    latents[half:] = latents[:half]
    return model, {key: value if key == named else differing(key, value, 2 * half) for key, value in inputs.items()}


def differing(name: str, value: Any, batch: int) -> Any:
    """An argument, of which each sample has values of its own if the case gave it the same for all."""
    if isinstance(value, dict):
        return {key: differing(key, x, batch) for key, x in value.items()}
    if isinstance(value, list):
        return [differing(name, x, batch) for x in value]
    alike = isinstance(value, Tensor) and value.ndim > 0 and len(value) == batch and bool((value == value[:1]).all())
    if not alike or name in ALIKE:
        return value
    value = value.clone()
    for i, x in enumerate(value.unbind()[1:], 1):
        if set(value.unique().tolist()) <= {0, 1} and x.ndim:  # a mask
            x.narrow(-1, -1, 1).logical_not_()
        elif value.is_floating_point():
            x.mul_(1 - i / 10)
        else:
            x.sub_(i) if not x.ndim else x.copy_(x.roll(i, 0))
    return value


def count_forwards(model: torch.nn.Module) -> list[int]:
    """The batch of every forward that runs here."""
    seen: list[int] = []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(len(kwargs["x" if "x" in kwargs else "hidden_states"])), with_kwargs=True
    )
    return seen


def in_one_batch(name: str, shape: tuple[Any, ...], layout: str | None) -> tuple[Tensor, list[int]]:
    model, inputs = doubled(name, shape)
    seen = count_forwards(model)
    if layout:
        ditmesh.enable_cache(model, parallelism_config=ParallelismConfig.parse(layout))
    return forward(model, inputs), seen


def refusal(name: str) -> str:
    model, inputs = doubled(name, SHAPES["odd"])
    ditmesh.enable_cache(model, parallelism_config=ParallelismConfig.parse("cfg2"))
    with pytest.raises(ValueError, match="cfg_size=2") as refused:
        forward(model, inputs)
    return str(refused.value)


@pytest.mark.matrix
@pytest.mark.parametrize(("name", "shape"), SPREAD)
def test_both_branches_in_one_batch(ranks: Ranks, name: str, shape: str) -> None:
    with torch.no_grad():
        want, _ = in_one_batch(name, SHAPES[shape], None)
    answers = ranks.run(in_one_batch, 2, name, SHAPES[shape], "cfg2")
    assert answers[0][0].equal(answers[1][0])
    for got, seen in answers:
        assert relative_error(got, want) <= (1e-5 if float32_inside(name) else 1e-10)
        assert set(seen) == {SHAPES[shape][0]}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_shared_out_is_refused_on_both_ranks(ranks: Ranks, name: str) -> None:
    for message in ranks.run(refusal, 2, name):
        assert message.startswith("cfg_size=2")
        assert REFUSED[name] in message
        assert "Use these ranks otherwise" in message or "use these ranks otherwise" in message
