"""DBCache as its algorithm is written, on one process and without the cache's code; and what the ranks run of it."""

import inspect
import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

import ditmesh
from ditmesh import DBCacheConfig, ParallelismConfig, TaylorSeerCalibratorConfig
from ditmesh.models import SPECS
from tests.transformers import build, forward

# How far the inputs of each step are from those of the first: they creep, and jump once.
PATH = (0.0, 1e-4, 2.0, 2.0001, 2.0003)
THRESHOLD = 0.1
LAYERS = (
    "num_layers", "num_single_layers", "n_layers", "num_hidden_layers", "depth", "num_mmdit_layers",
    "num_single_dit_layers", "num_visual_blocks", "mmdit_layers",
)  # fmt: skip
SHALLOW = ("bria_fibo", "hidream_image", "omnigen")  # other inputs depend on how many blocks there are
Inputs = dict[str, Any]


def build_deep(name: str, shape: tuple[Any, ...], dtype: torch.dtype) -> tuple[nn.Module, Inputs]:
    """The transformer of a case with four blocks in each list that had two, so that there is a middle."""
    model, inputs = build(name, shape, dtype)
    deeper = {key: 4 for key in LAYERS if model.config.get(key) == 2 and name not in SHALLOW}
    if deeper:
        torch.manual_seed(1)
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # some models use their own old names
            model = type(model).from_config({**model.config, **deeper})
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.2)
    return model.to(dtype).eval().requires_grad_(False), inputs


def requests(inputs: Inputs) -> Iterator[Inputs]:
    """The inputs of every step."""
    for distance in PATH:
        noise = torch.Generator().manual_seed(5)
        yield tree_map(lambda x, d=distance, g=noise: _moved(x, d, g), inputs)


def _moved(x: Any, distance: float, noise: torch.Generator) -> Any:
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 3:
        return x
    return x + distance * torch.randn(x.shape, generator=noise, dtype=torch.float64).to(x.dtype)


class Oracle:
    """Runs every block in every step, and puts the forecast in place of what the middle ones made.

    Attributes:
        hits: the cached steps of each chain.
    """

    def __init__(
        self, model: nn.Module, first: int, last: int, threshold: float, mode: str = "residual", order: int = 0
    ):
        self.model, self.first, self.last, self.threshold = model, first, last, threshold
        self.mode, self.order = mode, order
        self.hits: list[list[int]] = []
        self.step = -1
        spec = SPECS[type(model).__name__]
        lists = [blocks for blocks in spec.blocks if not blocks.apart]
        for returns, group in itertools.groupby(lists, key=lambda blocks: blocks.returns):
            chain = [block for blocks in group for block in model.get_submodule(blocks.path)]
            self._hook(chain, returns)

    def _hook(self, chain: list[nn.Module], returns: tuple[str, ...]) -> None:
        streams = [name for name in returns if name]
        main = "hidden_states" if "hidden_states" in streams else streams[0]
        hits: list[int] = []
        self.hits.append(hits)
        kept: dict[str, Any] = {"past": []}

        def given(block: nn.Module, args: Any, kwargs: Any) -> dict[str, Any]:
            bound = inspect.signature(type(block).forward).bind(block, *args, **kwargs).arguments
            bound |= bound.pop("kwargs", {})
            return {name: None if bound.get(name) is None else bound[name].clone() for name in streams}

        def start(block: nn.Module, args: Any, kwargs: Any) -> None:
            kept["start"] = given(block, args, kwargs)[main]

        def decide(block: nn.Module, args: Any, output: Any) -> None:
            moved = (
                dict(zip(returns, output if isinstance(output, tuple) else (output,), strict=True))[main]
                - kept["start"]
            )
            kept["hit"] = False
            if kept["past"] and self.threshold > 0:
                before = kept["moved"]
                kept["hit"] = bool((before - moved).abs().mean() / before.abs().mean() < self.threshold)
            if kept["hit"]:
                hits.append(self.step)
            else:
                kept["moved"] = moved.clone()

        def enter(block: nn.Module, args: Any, kwargs: Any) -> None:
            kept["entry"] = given(block, args, kwargs)

        def leave(block: nn.Module, args: Any, output: Any) -> Any:
            several = isinstance(output, tuple)
            made = dict(zip(returns, output if several else (output,), strict=True))
            if not kept["hit"]:
                added = {name: self._added(made[name], kept["entry"][name]) for name in streams}
                kept["past"] = [(self.step, added), *kept["past"][: self.order]]
                return output
            new = {name: self._forecast(kept["past"], name, kept["entry"][name]) for name in streams}
            return tuple(new.get(name) for name in returns) if several else new[returns[0]]

        last = len(chain) - self.last
        chain[0].register_forward_pre_hook(start, with_kwargs=True, prepend=False)
        chain[self.first - 1].register_forward_hook(decide)
        chain[self.first].register_forward_pre_hook(enter, with_kwargs=True, prepend=False)
        chain[last - 1].register_forward_hook(leave)

    def _added(self, made: Tensor | None, entry: Tensor | None) -> Tensor | None:
        if made is None:
            return None
        return made.clone() if self.mode == "hidden_states" or entry is None else made - entry

    def _forecast(self, past: list[Any], name: str, entry: Tensor | None) -> Tensor | None:
        step, newest = past[0][0], past[0][1][name]
        if newest is None:
            return None
        if len(past) > 1:
            before, older = past[1][0], past[1][1][name]
            newest = newest + (newest - older) * ((self.step - step) / (step - before))
        return newest.clone() if self.mode == "hidden_states" or entry is None else entry + newest

    def run(self, inputs: Inputs) -> list[Tensor]:
        """Every step's output."""
        outputs = []
        for given in requests(inputs):
            self.step += 1
            with torch.no_grad():
                outputs.append(forward(self.model, given))
        return outputs


def oracle(
    name: str, shape: tuple[Any, ...], dtype: torch.dtype, first: int = 1, last: int = 0, threshold: float = THRESHOLD,
    mode: str = "residual", order: int = 0,
) -> tuple[list[Tensor], list[list[int]]]:  # fmt: skip
    """Outputs and cached steps of every chain."""
    model, inputs = build_deep(name, shape, dtype)
    written = Oracle(model, first, last, threshold, mode, order)
    return written.run(inputs), written.hits


def cached(
    name: str, layout: str, shape: tuple[Any, ...], dtype: torch.dtype, first: int = 1, last: int = 0,
    threshold: float = THRESHOLD, mode: str = "residual", order: int = 0,
) -> tuple[list[Tensor], list[list[int]]]:  # fmt: skip
    """The same of a rank of a layout."""
    model, inputs = build_deep(name, shape, dtype)
    calibrator = TaylorSeerCalibratorConfig(taylorseer_order=order, calibrator_cache_type=mode) if order else None
    ditmesh.enable_cache(
        model,
        cache_config=config(first, last, threshold),
        calibrator_config=calibrator,
        parallelism_config=ParallelismConfig.parse(layout) if layout != "single" else None,
    )
    outputs = run(model, inputs)
    return outputs, [list(one.cached_steps) for one in ditmesh.summary(model, logging=False)]


def config(first: int = 1, last: int = 0, threshold: float = THRESHOLD, **more: Any) -> DBCacheConfig:
    """Without warm-up, so that every step but the first is tested."""
    return DBCacheConfig(
        Fn_compute_blocks=first, Bn_compute_blocks=last, residual_diff_threshold=threshold, max_warmup_steps=0, **more
    )


def run(model: nn.Module, inputs: Inputs, call: Callable[[nn.Module, Inputs], Tensor] = forward) -> list[Tensor]:
    """Every step's output."""
    with torch.no_grad():
        return [call(model, given) for given in requests(inputs)]
