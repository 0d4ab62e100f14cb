"""Whole pipelines with guidance parallelism, beside one process: what they draw, and how much of it each rank ran."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from torch._dynamo.utils import counters

import ditmesh
from ditmesh import DBCacheConfig, ParallelismConfig
from tests.ranks import Ranks
from tests.tiny import tiny_path
from tests.upstream.test_lora import lora


class Log(logging.Handler):
    """What ditmesh said."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def draw(
    path: Path, calls: list[dict[str, Any]], layout: str | None, cache: DBCacheConfig | None = None, **options: Any
) -> tuple[list[Tensor], int, int]:
    """The latents of some requests, the samples that this rank's transformers ran, and the steps it waited in."""
    pipe = DiffusionPipeline.from_pretrained(path)
    pipe.set_progress_bar_config(disable=True)
    seen: list[int] = []
    for name, part in pipe.components.items():
        if name.startswith("transformer") and isinstance(part, nn.Module):
            part.register_forward_pre_hook(
                lambda _, args, kwargs: seen.append(len([*args, *kwargs.values()][0])), with_kwargs=True
            )
    log = Log()
    logging.getLogger("ditmesh").addHandler(log)
    logging.getLogger("ditmesh").setLevel(logging.INFO)
    weights = lora(pipe.transformer, 5, prefix="transformer.") if "lora" in options else {}
    if options.get("lora") == "before":
        pipe.load_lora_weights(weights, adapter_name="style")
    for name, settings in options.get("guiders", {}).items():
        pipe.register_modules(**{name: pipe.components[name].new(**settings)})
    if layout or cache:
        parallelism = ParallelismConfig.parse(layout) if layout else ParallelismConfig()
        names = [name for name in options.get("extras", ()) if name in pipe.components]
        sizes = {f"{axis}_size": size for axis, size in parallelism.sizes.items()}
        shares = options.get("shard_weights", False)
        others = {"parallel_kwargs": {"extra_parallel_modules": names}, "shard_weights": shares}
        config = ParallelismConfig(**sizes, **others) if layout else None
        ditmesh.enable_cache(pipe, cache, parallelism_config=config)
    if options.get("lora") == "after":
        pipe.load_lora_weights(weights, adapter_name="style")
    if layout and options.get("compiled"):
        torch.compiler.reset()
        counters.clear()
        pipe.transformer.compile_repeated_blocks(backend="eager")
    drawn = []
    for call in calls:
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(0)
        made = pipe(**call, generator=generator, output_type=options.get("output", "latent"), return_dict=False)[0]
        drawn.append(torch.as_tensor(made))
    assert not (layout and options.get("compiled")) or counters["stats"]["unique_graphs"] > 0
    logging.getLogger("ditmesh").removeHandler(log)
    return drawn, sum(seen), sum("its second rank waits" in line for line in log.lines)


def check(
    ranks: Ranks, folder: Path, name: str, calls: list[dict[str, Any]], tolerance: float, layout: str = "cfg2",
    **options: Any,
) -> list[int]:  # fmt: skip
    """Compare each rank's latents with one process's; the share of the samples that each rank ran, in percent."""
    path = tiny_path(name, folder)
    with torch.no_grad():
        want, whole, _ = draw(path, calls, None, **options)
    answers = ranks.run(draw, ParallelismConfig.parse(layout).world_size, path, calls, layout, **options)
    for got, _, _ in answers:
        for x, y, first in zip(got, want, answers[0][0], strict=True):
            assert x.isfinite().all()
            assert x.equal(first)
            assert (x - y).abs().max() <= tolerance * y.abs().max()
    assert [waits for _, _, waits in answers] == [options.get("waits", 0)] * len(answers)
    return [100 * count // whole for _, count, _ in answers]


def refusal(path: Path, call: dict[str, Any], cache: DBCacheConfig | None) -> str:
    with pytest.raises(ValueError, match="cfg_size=2") as refused:
        draw(path, [call], "cfg2", cache)
    return str(refused.value)
