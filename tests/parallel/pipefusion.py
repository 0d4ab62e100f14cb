"""What ranks run for the tests of PipeFusion: a pipeline's loop around a tiny transformer."""

import copy
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

import ditmesh
from ditmesh import ParallelismConfig
from ditmesh.models import SPECS
from ditmesh.upstream.modules import expand
from tests.counting import CommunicationCounter
from tests.transformers import Inputs, build, forward

ODD = (2, (3, 5), 7, False)


def config(layout: str, **kwargs: Any) -> ParallelismConfig:
    """A layout, and how it is cut in time."""
    sizes = {f"{axis}_size": size for axis, size in ParallelismConfig.parse(layout).sizes.items()}
    return ParallelismConfig(**sizes, **kwargs)


def whole(name: str, layout: str, shape: tuple[Any, ...], dtype: torch.dtype) -> tuple[Tensor, int]:
    """A forward that is not cut in time, and how many parameters the rank held for it."""
    model, inputs = build(name, shape, dtype)
    ditmesh.enable_cache(model, parallelism_config=config(layout, num_pipeline_patch=1))
    held = sum(weight.numel() for weight in model.parameters())
    return forward(model, inputs), held


def enable_and_disable(name: str, layout: str) -> bool:
    """Whether every weight and the forward are back, to the bit."""
    model, inputs = build(name, ODD, torch.float32)
    before = {key: x.clone() for key, x in model.state_dict().items()}
    want = forward(model, inputs)
    ditmesh.enable_cache(model, parallelism_config=config(layout, num_pipeline_patch=1))
    forward(model, inputs)
    ditmesh.disable_cache(model)
    after = model.state_dict()
    return all(torch.equal(after[key], x) for key, x in before.items()) and torch.equal(forward(model, inputs), want)


class Loop:
    """As much of a pipeline as tells where a request and its steps begin."""

    def __init__(self, model: nn.Module):
        self.components = {"transformer": model}
        self.scheduler = SimpleNamespace(step_index=0)

    def progress_bar(self) -> None:
        self.scheduler.step_index = 0

    def __call__(self, steps: list[Inputs]) -> list[Tensor]:
        """A request: the output of each step."""
        self.progress_bar()
        outputs = []
        for inputs in steps:
            outputs.append(forward(self.components["transformer"], inputs))
            self.scheduler.step_index += 1
        return outputs


def loop(model: nn.Module, layout: str, **kwargs: Any) -> Loop:
    """A model's loop, spread over a layout."""
    return ditmesh.enable_cache(Loop(model), parallelism_config=config(layout, **kwargs))


def same_step(name: str, shape: tuple[Any, ...], dtype: torch.dtype, times: int, **kwargs: Any) -> list[Tensor] | str:
    """A step that runs whole, and the same in patches: what it remembers is what it computes."""
    model, inputs = build(name, shape, dtype)
    try:
        return loop(model, "pp2", **kwargs)([inputs] * times)
    except ValueError as error:
        return str(error)


class Oracle(TorchFunctionMode):
    """The written algorithm in one process, on whole sequences: attention alone tells a patched step from another.

    The rows of patch m (the text's with those of patch 0) see the keys and values of this step for the text and the
    patches up to m, and those of the step before for the rest. Every row is computed once, so one forward is a step.

    Args:
        text: how many tokens of the text come first.
        earlier: how many calls of attention come before the blocks.
        frames: attention to as many goes along them, and is of one token each.
    """

    def __init__(self, patches: int, warmup: int, text: int, earlier: int, frames: int | None = None):
        super().__init__()
        self.patches, self.warmup, self.text, self.earlier, self.frames = patches, warmup, text, earlier, frames
        self.kept: list[tuple[Tensor, Tensor]] = []
        self.step = 0

    def __enter__(self) -> "Oracle":
        self.calls, self.fresh = 0, []
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.kept, self.step = self.fresh, self.step + 1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        given = dict(zip(names, args, strict=False)) | kwargs
        self.calls += 1
        across = given["query"].shape[2] != given["key"].shape[2] or given["query"].shape[2] == self.frames
        return func(**given) if across or self.calls <= self.earlier else self.attend(func, given)

    def attend(self, func: Any, given: dict[str, Any]) -> Tensor:
        query, key, value = given["query"], given["key"], given["value"]
        layer = len(self.fresh)
        self.fresh.append((key, value))
        if self.step < self.warmup or self.patches == 1:
            return func(**given)
        out = torch.empty_like(query)
        bounds = [self.text + int(x[0]) for x in torch.arange(query.shape[2] - self.text).tensor_split(self.patches)]
        bounds = [0, *bounds[1:], query.shape[2]]
        old_key, old_value = self.kept[layer]
        for start, end in itertools.pairwise(bounds):
            pairs = ((key, old_key), (value, old_value))
            seen = [torch.cat([new[:, :, :end], old[:, :, end:]], 2) for new, old in pairs]
            out[:, :, start:end] = func(**given | {"query": query[:, :, start:end], "key": seen[0], "value": seen[1]})
        return out


# Where the text stands in attention, how often a model attends before its blocks, and which argument changes.
ORACLES = {
    "flux": (7, 0, "hidden_states"), "flux2": (7, 0, "hidden_states"), "qwen_image": (7, 0, "hidden_states"),
    "wan": (0, 0, "hidden_states"), "z_image": (0, 4, "x"), "chroma": (7, 0, "hidden_states"),
    "hunyuan_dit:deep": (0, 0, "hidden_states"), "latte": (0, 0, "hidden_states"),
}  # fmt: skip
FRAMES = {"latte": 3}
STEPS = 4


def deep(name: str, seed: int = 0) -> tuple[nn.Module, list[Inputs]]:
    """A transformer of four blocks at least, and a request's steps."""
    model, inputs = build(name, ODD, torch.float64, seed)
    blocks = SPECS[type(model).__name__].blocks
    (_, last), count = expand(model, blocks[-1].path)[0], sum(len(list(expand(model, f"{x.path}.*"))) for x in blocks)
    for _ in range(4 - count):
        last.append(copy.deepcopy(last[-1]))
        for weight in last[-1].parameters():
            nn.init.normal_(weight, std=0.2)
    latents = ORACLES[name][2]
    steps = [inputs]
    for _ in range(STEPS - 1):
        moved = tree_map(lambda x: x + 0.3 * torch.randn_like(x), steps[-1][latents])
        steps.append(steps[-1] | {latents: moved})
    return model.requires_grad_(False), steps


def one_process(name: str, patches: int, warmup: int, seed: int = 0) -> list[Tensor]:
    """What the oracle computes in each step of a request; the seed is that of the request."""
    (model, _), (_, steps) = deep(name), deep(name, seed)
    text, earlier, _ = ORACLES[name]
    oracle, outputs = Oracle(patches, warmup, text, earlier, FRAMES.get(name)), []
    for inputs in steps:
        with oracle:
            outputs.append(forward(model, inputs))
    return outputs


def requests(name: str, layout: str, settings: list[tuple[int, int]], seeds: tuple[int, ...] = (0,)) -> list[Any]:
    """What a rank computes in each step of a request for each of the settings (patches, warm-up) and seeds."""
    model, _ = deep(name)
    prompts = [deep(name, seed)[1] for seed in seeds]
    found = []
    for patches, warmup in settings:
        pipe = loop(model, layout, num_pipeline_patch=patches, warmup_steps=warmup)
        found.append([pipe(steps) for steps in prompts])
        ditmesh.disable_cache(pipe)
    return found


def two_branches(layout: str, patches: int) -> list[list[Tensor]]:
    """The steps of two prompts that take turns, as guidance makes them."""
    model, first = deep("flux")
    pipe = loop(model, layout, num_pipeline_patch=patches)
    pipe.progress_bar()
    outputs: list[list[Tensor]] = [[], []]
    for pair in zip(first, deep("flux", 1)[1], strict=True):
        made = [forward(model, inputs) for inputs in pair]
        for branch, x in zip(outputs, made, strict=True):
            branch.append(x.clone())
        pipe.scheduler.step_index += 1
    return outputs


def cost_of_a_step(layout: str, patches: int) -> tuple[dict[str, int], dict[str, int], list[tuple[int, int]]]:
    """Calls and bytes of a patched step on a rank, and the tokens (image, text) that its blocks were given."""
    model, steps = deep("flux")
    pipe = loop(model, layout, num_pipeline_patch=patches)
    tokens = []

    def count(block: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        tokens.append((kwargs["hidden_states"].shape[1], kwargs["encoder_hidden_states"].shape[1]))

    pipe(steps[:1])
    model.transformer_blocks[0].register_forward_pre_hook(count, with_kwargs=True)
    pipe.scheduler.step_index = 1
    with CommunicationCounter() as counter:
        forward(model, steps[1])
    return dict(counter.calls), dict(counter.bytes), tokens


def left_out() -> str:
    """A call that leaves out the block at the end of the first stage."""
    model, inputs = build("sd3", ODD, torch.float32)
    ditmesh.enable_cache(model, parallelism_config=config("pp2", num_pipeline_patch=1))
    try:
        forward(model, inputs | {"skip_layers": [0, 1]})
    except ValueError as error:
        return str(error)
    return ""


def pictures(path: Path, call: dict[str, Any], layout: str | None, steps: int, **kwargs: Any) -> list[np.ndarray]:
    """What a stock pipeline draws, twice."""
    pipe = DiffusionPipeline.from_pretrained(path)
    pipe.set_progress_bar_config(disable=True)
    if layout:
        ditmesh.enable_cache(pipe, parallelism_config=config(layout, **kwargs))
    call = call | {"num_inference_steps": steps, "output_type": "np"}
    return [np.asarray(pipe(**call, generator=torch.Generator().manual_seed(0))[0]) for _ in range(2)]
