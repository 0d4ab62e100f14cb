"""A ControlNet beside its transformer, parallelized if it is named and whole if not, equals one process."""

import copy
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

import ditmesh
from ditmesh import ParallelismConfig
from ditmesh.models import CONTROLNETS
from tests.api.test_api import state
from tests.parallel.controlnets import MAKERS, Pair, build, enable, parallel, run, several
from tests.ranks import Ranks
from tests.transformers import SHAPES, relative_error

F32, F64 = torch.float32, torch.float64
TOLERANCE = {F32: 1e-5, F64: 1e-10}
MASKED = ("qwen_image", "z_image", "hunyuan_dit")
EVERY = [
    ("tp2", "odd", F32), ("ulysses2", "batch2", F32), ("ring2", "odd", F64), ("ulysses3", "odd", F32),
    ("ring2.ulysses2", "short", F32), ("ulysses2.tp2", "batch2", F64), ("ring2.tp2", "odd", F32),
]  # fmt: skip
WITH_MASKS = [("ulysses3", "masked", F32), ("ring2.tp2", "masked", F64)]


@cache
def one_process(name: str, shape: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return run(build(name, SHAPES[shape], dtype))


def check(ranks: Ranks, name: str, layout: str, shape: str, dtype: torch.dtype, named: bool) -> None:
    dtype = F32 if name.startswith("cosmos") else dtype  # it computes in float32 inside
    wants = one_process(name, shape, dtype)
    world = ParallelismConfig.parse(layout).world_size
    for gots in ranks.run(parallel, world, name, layout, SHAPES[shape], dtype, named):
        for got, want in zip(gots, wants, strict=True):
            assert want.isfinite().all()
            assert want.std() > 1e-3
            assert relative_error(got, want) <= TOLERANCE[dtype]


def test_every_sheet_of_a_controlnet_has_a_case() -> None:
    pairs = [build(name, SHAPES["odd"], F32) for name in MAKERS]
    assert {type(pair.controlnet).__name__ for pair in pairs} == set(CONTROLNETS)
    for pair in pairs:
        assert CONTROLNETS[type(pair.controlnet).__name__].controls == type(pair.transformer).__name__


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("name", "layout", "shape", "dtype"),
    [(name, *how) for name in MAKERS if ":" not in name for how in EVERY + (WITH_MASKS if name in MASKED else [])],
)
def test_both_equal_one_process(ranks: Ranks, name: str, layout: str, shape: str, dtype: torch.dtype) -> None:
    check(ranks, name, layout, shape, dtype, named=True)


@pytest.mark.parametrize(
    ("layout", "shape"), [("tp2", "odd"), ("ulysses3", "batch2"), ("ring2.ulysses2", "short"), ("ring2.tp2", "odd")]
)
@pytest.mark.parametrize("name", [name for name in MAKERS if ":" in name])
def test_variants_equal_one_process(ranks: Ranks, name: str, layout: str, shape: str) -> None:
    check(ranks, name, layout, shape, F32, named=True)


@pytest.mark.parametrize(("layout", "dtype"), [("tp2", F32), ("ring2.ulysses2", F32), ("ulysses2.tp2", F64)])
@pytest.mark.parametrize("name", ["flux", "sd3", "z_image", "z_image:2.0", "z_image:2.1"])
def test_a_controlnet_that_is_not_named_runs_whole(ranks: Ranks, name: str, layout: str, dtype: torch.dtype) -> None:
    check(ranks, name, layout, "batch2", dtype, named=False)


def summed(name: str, layout: str | None) -> tuple[Tensor, Tensor]:
    pair = several(name, SHAPES["batch2"])
    if layout:
        enable(pair, layout, pair.controlnet)
    return run(pair)


@pytest.mark.parametrize(
    ("name", "layout"),
    [("flux:union", "ulysses3"), ("sd3", "ring2.tp2"), ("qwen_image", "ulysses2"), ("hunyuan_dit", "tp2")],
)
def test_several_controlnets_are_summed(ranks: Ranks, name: str, layout: str) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        wants = summed(name, None)
    for gots in ranks.run(summed, ParallelismConfig.parse(layout).world_size, name, layout):
        assert max(relative_error(got, want) for got, want in zip(gots, wants, strict=True)) <= 1e-10


def calls_in_turn(name: str, layout: str, named: bool) -> list[float]:
    """Errors of a ControlNet and its transformer over pictures of one size, of another, and of the first again."""
    bare, pair = (build(name, SHAPES["odd"], F32) for _ in range(2))
    longer = build(name, (1, (7, 9), 40, False), F32)
    enable(pair, layout, *(["controlnet"] if named else []))
    errors = []
    for call in (pair, longer, pair):
        gots, wants = (run(replace(x, inputs=call.inputs, hints=call.hints)) for x in (pair, bare))
        errors += [relative_error(got, want) for got, want in zip(gots, wants, strict=True)]
    return errors


@pytest.mark.parametrize("named", [True, False], ids=["named", "whole"])
@pytest.mark.parametrize("name", ["flux:union", "z_image:2.1"])
def test_the_two_never_mix_up_their_lengths(ranks: Ranks, name: str, named: bool) -> None:
    for errors in ranks.run(calls_in_turn, 2, name, "ulysses2", named):
        assert max(errors) <= 1e-5


def there_and_back(name: str, layout: str, named: bool) -> bool:
    pair = build(name, SHAPES["odd"], F32)
    models = (pair.controlnet, pair.transformer)
    want, before = run(pair), [state(model) for model in models]
    identities = [[id(part) for model in models for part in (*model.modules(), *model.buffers())]]
    weights = [copy.deepcopy(model.state_dict()) for model in models]
    enable(pair, layout, *(["controlnet"] if named else []))
    run(pair)
    ditmesh.disable_cache(pair.pipe)
    assert [state(model) for model in models] == before
    assert [[id(part) for model in models for part in (*model.modules(), *model.buffers())]] == identities
    assert all(torch.equal(x, held[key]) for model, held in zip(models, weights, strict=True)
               for key, x in model.state_dict().items())  # fmt: skip
    return all(torch.equal(got, x) for got, x in zip(run(pair), want, strict=True))


@pytest.mark.parametrize("layout", ["ulysses2.tp2", "ring2"])
@pytest.mark.parametrize(("name", "named"), [("flux", True), ("z_image:2.1", True), ("z_image:2.0", False)])
def test_disable_takes_everything_back(ranks: Ranks, name: str, named: bool, layout: str) -> None:
    assert all(ranks.run(there_and_back, ParallelismConfig.parse(layout).world_size, name, layout, named))


def shares(name: str, layout: str, *extras: str) -> tuple[list[int], list[int], bool]:
    """The elements of the weights of a ControlNet, those it shares with its transformer, and whether they are one."""
    pair = build(name, SHAPES["odd"], F32)
    enable(pair, layout, *extras)
    theirs = {id(parameter) for parameter in pair.transformer.parameters()}
    own = [p.numel() for p in pair.controlnet.parameters() if id(p) not in theirs and p.ndim == 2]
    refiner, other = (dict(model.named_parameters()) for model in (pair.controlnet, pair.transformer))
    names = [key for key in refiner if key.startswith(("noise_refiner", "cap_embedder"))]
    return own, [refiner[key].numel() for key in names], all(refiner[key] is other[key] for key in names)


def test_a_rank_holds_its_share_of_a_named_controlnet_and_the_transformers_of_what_they_share(ranks: Ranks) -> None:
    whole, shared, _ = shares("z_image:2.0", "single")
    for layout, degree in (("tp2", 2), ("ulysses2.tp2", 2)):
        world = ParallelismConfig.parse(layout).world_size
        for own, held, is_one in ranks.run(shares, world, "z_image:2.0", layout, "controlnet"):
            assert is_one
            assert sum(own) < 0.6 * sum(whole)
            assert sum(shared) / degree < sum(held) < 0.6 * sum(shared)
        for own, held, is_one in ranks.run(shares, world, "z_image:2.0", layout):
            assert is_one
            assert own == whole
            assert sum(held) < 0.6 * sum(shared)


def named_twice() -> list[float]:
    """A ControlNet and an encoder of pictures, each given by itself and by its name, and the transformer too."""
    pair, bare = (build("sd3", SHAPES["odd"], F32) for _ in range(2))
    enable(pair, "tp2", pair.controlnet, "controlnet", pair.controlnet, "transformer")
    errors = [relative_error(got, want) for got, want in zip(run(pair), run(bare), strict=True)]
    vae, want = (tiny_vae() for _ in range(2))
    parts = {"transformer": build("sd3", SHAPES["odd"], F32).transformer, "vae": vae}
    parallelism = ParallelismConfig(ring_size=2, extra_parallel_modules=("vae", vae))
    ditmesh.enable_cache(SimpleNamespace(components=parts), parallelism_config=parallelism)
    latents = torch.randn(1, 4, 6, 5)
    return [*errors, relative_error(vae.decode(latents).sample, want.decode(latents).sample)]


def tiny_vae() -> nn.Module:
    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D"]}
    return diffusers.AutoencoderKL(**blocks, block_out_channels=[8], norm_num_groups=2).eval()


def test_a_module_named_twice_is_applied_once(ranks: Ranks) -> None:
    assert max(max(errors) for errors in ranks.run(named_twice, 2)) <= 1e-5


def refused(pair: Pair, layout: str, *extras: Any) -> str:
    """Why a pipeline cannot be enabled; it must be as before."""
    before = [state(model) for model in (pair.controlnet, pair.transformer)]
    with pytest.raises(ValueError, match=r".") as error:
        enable(pair, layout, *extras)
    assert [state(model) for model in (pair.controlnet, pair.transformer)] == before
    return str(error.value)


def test_a_controlnet_without_a_sheet_is_refused_by_its_class() -> None:
    pair = build("flux", SHAPES["odd"], F32)
    sana = diffusers.SanaControlNetModel(
        num_attention_heads=2, attention_head_dim=8, num_layers=1, num_cross_attention_heads=2,
        cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=8,
    )  # fmt: skip
    unet = diffusers.ControlNetModel(
        block_out_channels=(16,), down_block_types=("DownBlock2D",), norm_num_groups=2, layers_per_block=1
    )
    several = diffusers.FluxMultiControlNetModel([pair.controlnet, sana])
    for module, title in (
        (sana, "SanaControlNetModel"),
        (unet, "ControlNetModel"),
        (several, "FluxMultiControlNetModel of FluxControlNetModel of SanaControlNetModel"),
    ):
        message = refused(pair, "single", module)
        assert f"extra_parallel_modules: {title} is no text encoder, autoencoder or ControlNet" in message
        assert all(name in message for name in CONTROLNETS)


def test_the_heads_of_a_controlnet_are_checked_before_anything_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    pair = build("flux", SHAPES["odd"], F32)
    pair.controlnet = diffusers.FluxControlNetModel(
        num_layers=1, num_single_layers=1, num_attention_heads=6, attention_head_dim=8, axes_dims_rope=[2, 2, 4]
    )
    assert "tp_size=4 does not divide the ControlNet of FLUX.1's 6 attention heads" in refused(
        pair, "tp4", "controlnet"
    )


def refusals_on_ranks() -> dict[str, str]:
    messages = {}
    pair = build("flux", SHAPES["odd"], F32)
    pair.controlnet.transformer_blocks[0] = pair.transformer.transformer_blocks[0]
    messages["blocks"] = refused(pair, "tp2", "controlnet")
    pair = build("z_image", SHAPES["odd"], F32)
    refiner = pair.transformer.noise_refiner[0]
    refiner.forward = refiner.forward
    messages["forward"] = refused(pair, "ring2")
    del refiner.forward
    enable(pair, "ring2", "controlnet")
    messages["twice"] = refused(pair, "ring2", "controlnet")
    diffusers.ZImageControlNetModel.from_transformer(pair.controlnet, pair.transformer)
    with pytest.raises(ValueError, match=r".") as error:
        run(pair)
    messages["shared anew"] = str(error.value)
    return messages


def test_what_ranks_refuse(ranks: Ranks) -> None:
    for messages in ranks.run(refusals_on_ranks, 2):
        assert "shares transformer_blocks.0.norm1.linear with the transformer" in messages["blocks"]
        assert "ZImageControlNetModel.noise_refiner.0 is the transformer's too" in messages["forward"]
        assert "this ZImageControlNetModel is enabled already" in messages["twice"]
        assert "of ZImageControlNetModel was replaced after enable_cache" in messages["shared anew"]
