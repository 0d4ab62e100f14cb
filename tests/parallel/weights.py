"""What ranks run for the tests of sharded weights: everything twice, with ``shard_weights`` and without."""

import gc
import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from diffusers import FluxPipeline
from peft import LoraConfig
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.distributed.tensor import DTensor

import ditmesh
from ditmesh import DBCacheConfig, ParallelismConfig
from ditmesh.models import SPECS
from tests.cache.caching import build_deep
from tests.counting import CommunicationCounter
from tests.parallel.pipefusion import ODD, Loop
from tests.quantized_kinds import quantize
from tests.runtime.test_gang import draw, fail
from tests.transformers import SHAPES, Inputs, build, forward
from tests.upstream.test_lora import load, lora

Make = Callable[[], tuple[nn.Module, Inputs]]


def step(model: Any, inputs: Inputs, branches: int) -> Tensor:
    """A step, whose branches may be two calls."""
    if branches == 1:
        return forward(model, inputs)
    with model.cache_context("cond"):
        first = forward(model, inputs)
    with model.cache_context("uncond"):
        second = forward(model, inputs | {"encoder_hidden_states": inputs["encoder_hidden_states"].flip(1)})
    return torch.stack([first + 0, second])


def in_blocks(model: nn.Module) -> dict[str, nn.Parameter]:
    lists = [f"{blocks.path}." for blocks in SPECS[type(model).__name__].blocks]
    return {name: x for name, x in model.named_parameters() if any(map(name.startswith, lists))}


def at_rest(model: nn.Module) -> tuple[int, int]:
    """The bytes of this rank's shares of weights of blocks, padding and all; and of those weights over the ranks."""
    shares = [x for x in in_blocks(model).values() if isinstance(x, DTensor)]
    mine = sum(x.to_local().untyped_storage().nbytes() for x in shares)
    return mine, sum(x.numel() * x.element_size() // x.device_mesh.size() for x in shares)


def mixed(model: nn.Module) -> nn.Module:
    """A model whose norms are of another type than what is around them."""
    model.to(torch.bfloat16)
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in ("norm1", "norm2", "norm3"):
            module.float()
    return model


def life(name: str, layout: str, dtype: torch.dtype | None) -> tuple[int, int]:
    """A model's whole life, with shares and without: the same to the bit. Returns the bytes that rest here, and should.

    ``dtype`` is None for a mixture.
    """
    config = ParallelismConfig.parse(layout)
    if config.pp_size > 1:
        config = replace(config, num_pipeline_patch=1)
    made: list[list[Tensor]] = []
    rested = 0, 0
    for shares in (False, True):
        model, inputs = build(name, SHAPES["odd"], dtype or torch.bfloat16)
        model = model if dtype else mixed(model)
        before = {key: x.clone() for key, x in model.state_dict().items()}
        alone, own, kinds = forward(model, inputs), dict(model.named_parameters()), [*map(type, model.modules())]
        made.append([])
        for _ in range(2):
            ditmesh.enable_cache(model, parallelism_config=replace(config, shard_weights=shares))
            assert config.tp_size > 1 or kinds == [*map(type, model.modules())]
            if shares:
                rested = at_rest(model)
            made[-1] += [step(model, inputs, config.cfg_size) for _ in range(2)]
            saved = model.state_dict()
            assert saved.keys() == before.keys()
            assert all(torch.equal(saved[key], x) for key, x in before.items())
            ditmesh.disable_cache(model)
            assert kinds == [*map(type, model.modules())]
            assert all(type(x) is nn.Parameter for x in model.parameters())
            assert config.tp_size > 1 or all(x is own[key] for key, x in model.named_parameters())
            assert torch.equal(forward(model, inputs), alone)
    assert all(map(torch.equal, *made))
    return rested


def differs(name: str, layout: str) -> bool:
    """Whether a model reads weights of a block where that does not run."""
    made = []
    for shares in (False, True):
        model, inputs = build(name, SHAPES["odd"], torch.float32)
        ditmesh.enable_cache(model, parallelism_config=replace(ParallelismConfig.parse(layout), shard_weights=shares))
        made.append(forward(model, inputs))
    return not torch.equal(*made)


def whole_at_once(name: str) -> tuple[list[int], list[int]]:
    """The bytes that there are more while each block runs than at rest; and those of it and of the next one, whole."""
    model, inputs = build(name, SHAPES["odd"], torch.float32)
    lists = [model.get_submodule(one.path) for one in SPECS[type(model).__name__].blocks]
    sizes = [sum(x.numel() * x.element_size() for x in block.parameters()) for one in lists for block in one]
    ditmesh.enable_cache(model, parallelism_config=ParallelismConfig(ulysses_size=2, shard_weights=True))
    forward(model, inputs)
    rest, found = live(), []
    for block in itertools.chain(*lists):
        block.attn.register_forward_pre_hook(lambda *_: found.append(live() - rest))
    forward(model, inputs)
    assert abs(live() - rest) < min(sizes) // 4
    return found, [sum(pair) for pair in zip(sizes, [*sizes[1:], 0], strict=True)]


def live() -> int:
    """The bytes of all tensors that there are."""
    gc.collect()
    found = [x for x in gc.get_objects() if type(x) in (Tensor, nn.Parameter, DTensor)]
    stores = [(x.to_local() if isinstance(x, DTensor) else x).untyped_storage() for x in found]
    return sum({store.data_ptr(): store.nbytes() for store in stores}.values())


def sent(name: str, layout: str) -> tuple[int, int, int, int]:
    """Gathers and their bytes in a forward, beside those of the layout alone; and what the formula says of both."""
    config, found = ParallelismConfig.parse(layout), []
    ranks = config.world_size
    for shares in (False, True):
        model, inputs = build(name, SHAPES["odd"], torch.float32)
        # (N - 1) ceil(rows / N) rows of each weight
        weights = [x for x in in_blocks(model).values() if len(x) >= ranks]
        formula = sum((ranks - 1) * -(-len(x) // ranks) * x[0].numel() * x.element_size() for x in weights)
        ditmesh.enable_cache(model, parallelism_config=replace(config, shard_weights=shares))
        with CommunicationCounter() as counter:
            forward(model, inputs)
        found.append((counter.calls["_allgather_base_"], counter.bytes["_allgather_base_"]))
    blocks = sum(len(list(model.get_submodule(one.path).children())) for one in SPECS[type(model).__name__].blocks)
    (calls, size), (more_calls, more) = found
    return more_calls - calls, more - size, blocks, formula


def cached(layout: str, shares: bool) -> tuple[list[Tensor], list[int], list[int]]:
    """Steps of two branches of which one creeps and the other jumps; gathers in each, and blocks that ran."""
    model, inputs = build_deep("flux", ODD, torch.float32)
    config = replace(ParallelismConfig.parse(layout), shard_weights=shares)
    cache = DBCacheConfig(Fn_compute_blocks=1, Bn_compute_blocks=1, max_warmup_steps=1, residual_diff_threshold=0.05)
    ditmesh.enable_cache(model, cache, parallelism_config=config)
    made, gathers, runs, ran = [], [], [], []
    for name, module in model.named_modules():
        if name.endswith(".attn"):
            module.register_forward_pre_hook(lambda *_: ran.append(1))
    for number in range(4):
        with CommunicationCounter() as counter:
            for branch, jump in (("cond", 0.0), ("uncond", 3.0)):
                moved = inputs | {"hidden_states": inputs["hidden_states"] * (1 + jump * number)}
                with model.cache_context(branch):
                    made.append(forward(model, moved))
            made[-2] = made[-2] + 0
        gathers.append(counter.calls["_allgather_base_"])
        runs.append(len(ran) - sum(runs))
    return made, gathers, runs


def in_patches(layout: str, shares: bool) -> list[Tensor]:
    """Steps of PipeFusion."""
    model, inputs = build("flux", ODD, torch.float32)
    config = replace(ParallelismConfig.parse(layout), shard_weights=shares, num_pipeline_patch=2)
    return ditmesh.enable_cache(Loop(model), parallelism_config=config)([inputs] * 3)


def compiled(layout: str, order: str, kind: str | None) -> None:
    """Blocks that are compiled, before or after; their weights may be quantized."""
    made = []
    for shares in (False, True):
        torch.compiler.reset()
        counters.clear()
        model, inputs = build("flux", SHAPES["odd"], torch.float32)
        model_: Any = model if kind is None else quantize(model, kind)
        if order == "before":
            model_.compile_repeated_blocks(backend="eager")
        config = replace(ParallelismConfig.parse(layout), shard_weights=shares)
        ditmesh.enable_cache(model, parallelism_config=config)
        if order == "after":
            model_.compile_repeated_blocks(backend="eager")
        graphs = set()
        for _ in range(3):
            made.append(forward(model, inputs))
            graphs.add(counters["stats"]["unique_graphs"])
        assert len(graphs) == 1
        assert graphs != {0}
    assert all(torch.equal(x, made[0]) for x in made)


def adapted(layout: str, shares: bool) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Adapters come, are fused with care and taken out again; DoRA is worked out of the weights."""
    model, inputs = build("flux", SHAPES["odd"], torch.float32)
    model_: Any = model
    alone = forward(model, inputs)
    ditmesh.enable_cache(model, parallelism_config=replace(ParallelismConfig.parse(layout), shard_weights=shares))
    load(model, lora(model, 1), "style")
    made = [forward(model, inputs)]
    for fuse in (partial(model_.fuse_lora, safe_fusing=True), model_.unfuse_lora, partial(model_.fuse_lora, 0.5)):
        fuse()
        made.append(forward(model, inputs))
    saved = {key: x.clone() for key, x in model.state_dict().items()}
    model_.unfuse_lora()
    model_.unload_lora()
    torch.manual_seed(0)
    model_.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k"], use_dora=True, init_lora_weights=False))
    with torch.inference_mode():
        made.append(forward(model, inputs) + 0)
    made.append(forward(model, inputs))
    model_.unload_lora()
    ditmesh.disable_cache(model)
    assert torch.allclose(forward(model, inputs), alone, atol=1e-4)
    return made, saved


def failed(flux: str, layout: str) -> None:
    """A request fails on one rank, before its blocks or inside of one; the next is right, and so is what comes back."""
    pipe = FluxPipeline.from_pretrained(flux)
    pipe.set_progress_bar_config(disable=True)
    state = {key: x.clone() for key, x in pipe.transformer.state_dict().items()}
    ditmesh.enable_cache(pipe, parallelism_config=replace(ParallelismConfig.parse(layout), shard_weights=True))
    want = draw(pipe)
    for place in ("single_transformer_blocks.0", "transformer_blocks.1.attn", "proj_out"):
        module = pipe.transformer.get_submodule(place)
        hook = module.register_forward_pre_hook(fail) if dist.get_rank() == 1 else None
        with pytest.raises(RuntimeError, match=r"OutOfMemoryError|no memory is left"):
            draw(pipe)
        if hook is not None:
            hook.remove()
        assert (draw(pipe) == want).all()
    pipe.transformer.to(torch.bfloat16).to(torch.float32)
    draw(pipe)
    ditmesh.disable_cache(pipe)
    for key, x in pipe.transformer.state_dict().items():
        assert torch.equal(x, state[key].to(torch.bfloat16).to(torch.float32))
