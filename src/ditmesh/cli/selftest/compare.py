"""One case of a self-test: draw with a pipeline that is spread over the ranks, and with one that is not."""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from math import inf, isfinite
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import ditmesh
from ditmesh import DBCacheConfig, ParallelismConfig
from ditmesh.cli.check_model.parity import TOLERANCE, relative_error
from ditmesh.cli.selftest.cases import DEMO, Case
from ditmesh.cli.selftest.pipelines import build, call_of
from ditmesh.job.devices import DTYPES
from ditmesh.job.draw import call_pipeline
from ditmesh.pipeline import components, unpack
from ditmesh.runtime.world import World
from ditmesh.upstream.kernels import is_there

# In bfloat16 another order of sums may be so many times as far from one process as that is from itself in float32.
ROUNDINGS = 3.0


class Alone:
    """What one process draws on this rank's device, with a bare pipeline: remembered, since many cases ask for it."""

    def __init__(self, world: World, device: torch.device):
        self.world, self.device = world, device
        self.picture = cache(self._picture)

    def _picture(self, name: str, dtype: str, seed: int) -> Tensor:
        drawn, _ = draw(build(name, self.world.size, DTYPES[dtype]).to(self.device), name, seed)
        if not drawn.isfinite().all() or drawn.std() < 1e-3:
            raise RuntimeError(f"{name}: one process draws nothing in {dtype}; its pictures say nothing of a layout.")
        return drawn

    def bound(self, name: str, dtype: str, seed: int) -> float:
        """How far from one process a layout may be: rounding, and no more."""
        if DTYPES[dtype] in TOLERANCE:
            return TOLERANCE[DTYPES[dtype]]
        return ROUNDINGS * distance(self.picture(name, dtype, seed), self.picture(name, "float32", seed), dtype)


def compare(case: Case, alone: Alone) -> dict[str, Any]:
    """The largest difference of any rank, what it may be at most, and the seconds of a step."""
    if case.kernel is not None and not is_there(case.kernel, DTYPES[case.dtype], alone.device):
        return {"absent": f"this device has no {case.kernel}"}
    layout = ParallelismConfig.parse(case.layout)
    seed = alone.world.rank // (layout.world_size // layout.dp_size) if layout.world_size > 1 else 0  # of a replica
    want = alone.picture(case.pipeline, case.dtype, seed)
    pipe = build(case.pipeline, alone.world.size, DTYPES[case.dtype])
    spread(pipe, case, layout)
    pipe.to(alone.device)
    if case.pipeline == DEMO or case.patched:  # what is timed is no first call
        again, _ = draw(pipe, case.pipeline, seed)
        want = again if case.patched else want
    got, seconds = draw(pipe, case.pipeline, seed)
    ditmesh.disable_cache(pipe)
    error = distance(got, want, case.dtype)
    bound = alone.bound(case.pipeline, case.dtype, seed)
    numbers = torch.tensor([error if isfinite(error) else inf, bound, seconds], dtype=torch.float64)
    if alone.world.size > 1:
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
    return dict(zip(("error", "bound", "seconds"), numbers.tolist(), strict=True))


def spread(pipe: Any, case: Case, layout: ParallelismConfig) -> None:
    """Enable what the case asks for; stages run whole sequences, which is exact, unless it says otherwise."""
    asked: dict[str, Any] = {"attention_backend": case.kernel}
    if case.cached:
        asked["cache_config"] = DBCacheConfig(Fn_compute_blocks=1, residual_diff_threshold=0.0, max_warmup_steps=0)
    if layout.world_size > 1:
        extras = [name for name in components(pipe) if name == "vae" or name.startswith("text_encoder")]
        asked["parallelism_config"] = replace(
            layout,
            num_pipeline_patch=1 if layout.pp_size > 1 and not case.patched else None,
            shard_weights=case.shard_weights,
            extra_parallel_modules=extras if case.shared else (),
        )
    ditmesh.enable_cache(pipe, **asked)


def draw(pipe: Any, name: str, seed: int) -> tuple[Tensor, float]:
    """The picture, and the seconds of the quickest step."""
    pipe.set_progress_bar_config(disable=True)
    began: list[float] = []

    def note(*_: object) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        began.append(time.perf_counter())

    [(transformer, _)] = unpack(pipe)[1]
    hook = transformer.register_forward_pre_hook(note)
    call = call_of(name)
    try:
        drawn = call_pipeline(pipe, call, [seed])[0]
    finally:
        hook.remove()
    return torch.as_tensor(drawn), quickest(began, call["num_inference_steps"])


def quickest(began: Sequence[float], steps: int) -> float:
    """The seconds of the quickest step, by when the transformer was called: in each step as often, for each branch of
    guidance once; on average, where patches call it more often in some steps than in others."""
    calls, more = divmod(len(began), steps)
    if more:
        return (began[-1] - began[0]) / (len(began) - 1) * len(began) / steps
    return min(later - first for first, later in pairwise(began[::calls]))


def distance(got: Tensor, want: Tensor, dtype: str) -> float:
    """The largest difference over the largest value; of rounded pictures, where few pixels say little, root mean
    squares of both."""
    if DTYPES[dtype] in TOLERANCE or got.shape != want.shape:
        return relative_error(got, want)
    return ((got - want).square().mean() / want.square().mean()).sqrt().item()
