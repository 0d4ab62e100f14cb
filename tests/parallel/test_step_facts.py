"""What stages rely on where they overlap across steps: the facts of sheets and schedulers, each of them probed."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

from ditmesh.models import SPECS, TOKENWISE_SCHEDULERS
from ditmesh.parallel.pipefusion.patches import patch_of
from ditmesh.parallel.pipefusion.step_route import is_tokenwise, step_patch, tensors
from ditmesh.upstream.modules import Link, chain, foreign_hooks
from tests.cases import CASES, variants
from tests.parallel.pipefusion import ODD
from tests.transformers import Inputs, build, forward

NAMES = [variant for name in CASES for variant in (name, *(f"{name}:{variant}" for variant in variants(name)))]
STEPS = 4


def look(model: nn.Module, links: list[Link], inputs: Inputs) -> tuple[list[Tensor], list[Tensor]]:
    """What a model makes outside its blocks: the first one's streams, and all else. Blocks make ones of streams."""
    streams: list[Tensor] = []
    others: list[Tensor] = []

    def show(link: Link) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            given = link.streams(args, kwargs)
            own = {id(x) for x in given.values()}
            others.extend(x for x in tensors((args, kwargs)) if id(x) not in own)
            if link is links[0]:
                streams.extend(x for x in given.values() if x is not None)
            return link.pack({name: None if x is None else torch.ones_like(x) for name, x in given.items()})

        return run

    for link in links:
        link.block.forward = show(link)
    with torch.no_grad():
        output = forward(model, inputs)
    return streams, [*others, output]


def are_tokenwise(model: nn.Module, inputs: Inputs, name: str) -> bool:
    """Whether two tokens of the latents make the same two tokens of a stream, and no latents make anything else.

    The rest of the latents are no numbers meanwhile, as on a first stage that has a patch of them; or all of them are,
    as on the other stages.
    """
    links, x = chain(model, SPECS[type(model).__name__]), inputs[name]
    start = x.shape[1] // 3
    patch, none = torch.full_like(x, torch.nan), torch.full_like(x, torch.nan)
    patch[:, start : start + 2] = x[:, start : start + 2]
    streams, others = look(model, links, inputs)
    of_patch, with_patch = look(model, links, inputs | {name: patch})
    _, without = look(model, links, inputs | {name: none})
    fits = [(a.shape[1] == x.shape[1] and torch.equal(a[:, start : start + 2], b[:, start : start + 2]))
            or torch.equal(a, b) for a, b in zip(streams, of_patch, strict=True)]  # fmt: skip
    same = [torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(others, with_patch, without, strict=True)]
    return all(fits) and all(same)


@pytest.mark.parametrize("name", NAMES)
def test_a_sheet_says_whether_latents_are_tokenwise(name: str) -> None:
    model, inputs = build(name, ODD, torch.float64)
    tokenwise = SPECS[type(model).__name__].tokenwise
    if tokenwise:
        assert are_tokenwise(model, inputs, tokenwise)
        return
    with torch.no_grad():
        output = forward(model, inputs)
    latents = [key for key, x in inputs.items() if isinstance(x, Tensor) and x.ndim == 3 and x.shape == output.shape]
    assert not any(are_tokenwise(model, inputs, key) for key in latents)


@pytest.mark.parametrize("where", ["x_embedder", "time_text_embed", "proj_out"])
def test_what_mixes_latents_is_found_out(where: str) -> None:
    """By the probe; and while a request runs, by the hook of somebody else."""
    model, inputs = build("flux", ODD, torch.float64)
    blocks = [link.block for link in chain(model, SPECS["FluxTransformer2DModel"])]
    seen = []
    model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs["hidden_states"]), with_kwargs=True)
    blocks[0].register_forward_hook(lambda module, args, output: output)
    assert are_tokenwise(model, inputs, "hidden_states")
    assert not foreign_hooks(model, blocks)
    hook = partial(lambda module, args, output: output + seen[-1].mean())  # which names no module it is from
    model.get_submodule(where).register_forward_hook(hook)
    assert not are_tokenwise(model, inputs, "hidden_states")
    assert foreign_hooks(model, blocks)


def apart_equals_whole(scheduler: Any, dtype: torch.dtype, tokens: int) -> bool:
    """Whether patches stepped one by one are the whole, to the bit, where a token alone moves the scheduler on."""
    scheduler.set_timesteps(STEPS)
    own = copy.deepcopy(scheduler)  # the pipeline's, that sees a token of zeros for the latents
    x, same = torch.randn(2, tokens, 3).to(dtype), []
    for time in scheduler.timesteps:
        made, patches = torch.randn(x.shape).to(dtype), [patch_of(tokens, 4, patch) for patch in range(4)]
        given = {"timestep": time, "return_dict": False}
        before, token = copy.copy(own), torch.zeros_like(x[:, :1])
        own.step(**given, model_output=token, sample=token)
        parts = [step_patch(before, given, made[:, list(at)], x[:, list(at)]) for at in patches]
        x, *more = scheduler.step(**given, model_output=made, sample=x)
        same.append(not more and torch.equal(torch.cat(parts, 1), x) and own.step_index == scheduler.step_index)
    return all(same) and len(same) > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", TOKENWISE_SCHEDULERS)
def test_schedulers_of_the_table_step_token_by_token(name: str, dtype: torch.dtype) -> None:
    scheduler = getattr(diffusers, name)(**TOKENWISE_SCHEDULERS[name])
    assert apart_equals_whole(scheduler, dtype, tokens=13)
    one, each = torch.ones(1), torch.ones(1, 13)
    assert is_tokenwise(scheduler, {"timestep": one, "generator": None})
    assert not is_tokenwise(scheduler, {"timestep": each})  # another time for each token
    assert not is_tokenwise(scheduler, {"timestep": one, "per_token_timesteps": each})


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}),
        ("LTXEulerAncestralRFScheduler", {}),
        ("FlowMatchLCMScheduler", {}),
        ("FlowMatchHeunDiscreteScheduler", {}),
        ("UniPCMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}),
        ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}),
    ],
)
def test_schedulers_with_noise_or_a_memory_are_not_of_the_table(name: str, options: dict[str, Any]) -> None:
    scheduler = getattr(diffusers, name)(**options)
    assert not apart_equals_whole(scheduler, torch.float32, tokens=12)
    assert not is_tokenwise(scheduler, {"timestep": torch.ones(1)})


def test_the_page_names_the_schedulers_of_the_table() -> None:
    page = Path("docs/pipefusion.md").read_text()
    assert all(f"`{name}`" in page for name in TOKENWISE_SCHEDULERS)


def test_a_scheduler_of_somebody_else_is_not_of_the_table() -> None:
    class Another(diffusers.FlowMatchEulerDiscreteScheduler):
        pass

    assert not is_tokenwise(Another(), {"timestep": torch.ones(1)})
