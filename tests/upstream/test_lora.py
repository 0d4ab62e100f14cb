"""LoRA weights, loaded before or after enable_cache, fused or not, make the picture they make on one device."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig
from torch import Tensor, nn

import ditmesh
from ditmesh import ParallelismConfig
from tests.api.test_api import state
from tests.counting import CommunicationCounter
from tests.ranks import Ranks
from tests.tiny import call_kwargs, tiny_path
from tests.transformers import SHAPES, build, forward, relative_error

# What peft says of a second adapter, and of one that is deleted.
pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`", "ignore:Adapter .* was active")
RANK = 3
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def lora(model: nn.Module, seed: int, dtype: torch.dtype = torch.float32, prefix: str = "") -> dict[str, Tensor]:
    """Weights that adapt every linear of a whole model."""
    draw = torch.Generator().manual_seed(seed)
    weights = {}
    for name, linear in model.named_modules():
        if isinstance(linear, nn.Linear):
            for part, shape in (("A", (RANK, linear.in_features)), ("B", (linear.out_features, RANK))):
                weights[f"{prefix}{name}.lora_{part}.weight"] = torch.randn(shape, generator=draw).to(dtype) * 0.1
    return weights


def load(model: Any, weights: dict[str, Tensor], adapter: str) -> None:
    model.load_lora_adapter(weights, prefix=None, adapter_name=adapter, low_cpu_mem_usage=True)


def adapted(name: str, shape: str, dtype: torch.dtype, layout: str | None, when: str) -> Tensor:
    """What a model with two adapters makes of its inputs."""
    model_: Any
    model, inputs = model_, _ = build(name, SHAPES[shape], dtype)
    first, second = lora(model, 1, dtype), lora(model, 2, dtype)
    if when != "after":
        load(model, first, "first")
    if when in ("before", "fused"):
        load(model, second, "second")
        model_.set_adapters(["first", "second"], [0.7, -0.4])
    if when == "fused":
        model_.fuse_lora()
        model_.unload_lora()
    if layout:
        ditmesh.enable_cache(model, parallelism_config=ParallelismConfig.parse(layout))
    if when == "after":
        load(model, first, "first")
    if when in ("after", "between"):
        load(model, second, "second")
        model_.set_adapters(["first", "second"], [0.7, -0.4])
    return forward(model, inputs)


@pytest.mark.parametrize(
    ("name", "layout", "when", "dtype"),
    [
        ("flux", "tp2", "before", torch.float64), ("flux", "tp2", "after", torch.float64),
        ("flux", "ulysses2.tp2", "between", torch.float32), ("flux", "ring2", "after", torch.float32),
        ("flux", "ulysses2", "before", torch.float32), ("flux", "ring2.tp2", "fused", torch.float32),
        ("flux2", "tp2", "after", torch.float64), ("flux2", "tp4", "before", torch.float32),
        ("wan", "tp4", "after", torch.float64), ("wan", "ring2.ulysses2", "between", torch.float32),
        ("qwen_image", "ulysses2.tp2", "after", torch.float64), ("qwen_image", "tp2", "fused", torch.float32),
        ("z_image", "ring2.tp2", "after", torch.float32), ("z_image", "ulysses2", "after", torch.float32),
        ("sd3", "tp2", "before", torch.float32), ("sd3", "ulysses2.tp2", "after", torch.float32),
    ],
)  # fmt: skip
def test_adapted_ranks_equal_one_process(ranks: Ranks, name: str, layout: str, when: str, dtype: torch.dtype) -> None:
    with torch.no_grad():
        want, plain = adapted(name, "odd", dtype, None, when), forward(*build(name, SHAPES["odd"], dtype))
    assert relative_error(plain, want) > 1e-2
    world = ParallelismConfig.parse(layout).world_size
    for got in ranks.run(adapted, world, name, "odd", dtype, layout, when):
        assert relative_error(got, want) <= TOLERANCE[dtype]


def life(layout: str | None) -> tuple[dict[str, Tensor], bool]:
    """What a model makes through all that can be done to its adapters, and whether disabling leaves it as it was."""
    built, inputs = build("flux", SHAPES["odd"], torch.float32)
    model: Any = built
    weights, made = [lora(model, seed) for seed in range(3)], {}

    def keep(name: str, **kwargs: Any) -> None:
        made[name] = forward(model, inputs | kwargs)

    load(model, weights[0], "kept")
    before, whole = state(model), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if layout:
        ditmesh.enable_cache(model, parallelism_config=ParallelismConfig.parse(layout))
    load(model, weights[1], "new")
    keep("new one alone")
    model.set_adapters(["kept", "new"], [0.5, 2.0])
    keep("both")
    keep("scaled", joint_attention_kwargs={"scale": 0.3})
    model.disable_lora()
    keep("disabled")
    model.enable_lora()
    load(model, weights[2], "fused")
    model.set_adapters("fused")
    model.fuse_lora(lora_scale=0.5)  # before any forward
    keep("fused")
    model.unfuse_lora()
    model.delete_adapters(["new", "fused"])
    model.set_adapters("kept")
    keep("deleted")
    if not layout:
        model.unload_lora()
        keep("unloaded")
        return made, True
    ditmesh.disable_cache(model)
    is_back = state(model) == before and all(
        relative_error(tensor, whole[name]) <= 1e-5 for name, tensor in model.state_dict().items()
    )
    keep("restored")
    ditmesh.enable_cache(model, parallelism_config=ParallelismConfig.parse(layout))
    model.unload_lora()
    keep("unloaded")
    ditmesh.disable_cache(model)
    keep("bare again")
    return made, is_back and not any("lora" in name for name in model.state_dict())


@pytest.mark.parametrize("layout", ["tp2", "ulysses2", "ring2.tp2"])
def test_adapters_come_and_go(ranks: Ranks, layout: str) -> None:
    with torch.no_grad():
        want, _ = life(None)
    want |= {"restored": want["deleted"], "bare again": want["unloaded"]}
    assert relative_error(want["both"], want["scaled"]) > 1e-2
    for made, is_back in ranks.run(life, ParallelismConfig.parse(layout).world_size, layout):
        assert {name: relative_error(got, want[name]) for name, got in made.items()}.keys() == want.keys()
        assert max(relative_error(got, want[name]) for name, got in made.items()) <= 1e-5
        assert is_back


def picture(path: Path, call: dict[str, Any], layout: str | None, order: str) -> np.ndarray:
    """What a pipeline draws with LoRA weights that its own loader loads."""
    pipe: Any = DiffusionPipeline.from_pretrained(path)
    pipe.set_progress_bar_config(disable=True)
    weights = lora(pipe.transformer, 5, prefix="transformer.")
    if order == "offloaded":
        # Loading takes offloading away and enables it again, which by itself finds no accelerator here.
        vars(pipe)["enable_model_cpu_offload"] = partial(pipe.enable_model_cpu_offload, device="cpu")
        pipe.enable_model_cpu_offload()
    if layout and order != "before":
        ditmesh.enable_cache(pipe, parallelism_config=ParallelismConfig.parse(layout))
    pipe.load_lora_weights(weights, adapter_name="style")
    if layout and order == "before":
        ditmesh.enable_cache(pipe, parallelism_config=ParallelismConfig.parse(layout))
    drawn = pipe(**call, generator=torch.Generator().manual_seed(0), output_type="np")
    pipe.unload_lora_weights()
    plain = pipe(**call, generator=torch.Generator().manual_seed(0), output_type="np")
    return np.stack([np.asarray(vars(x)[next(iter(vars(x)))]) for x in (drawn, plain)])


@pytest.mark.parametrize(
    ("name", "layout", "order"),
    [
        ("flux", "tp2", "after"),
        ("flux", "ulysses2.tp2", "offloaded"),
        ("wan", "tp2", "after"),
        ("wan", "ring2", "before"),
    ],
)
def test_pipelines_load_and_unload(ranks: Ranks, tmp_path: Path, name: str, layout: str, order: str) -> None:
    path, call = tiny_path(name, tmp_path), call_kwargs(name)
    with torch.no_grad():
        want = picture(path, call, None, order)
    assert np.abs(want[0] - want[1]).max() > 1e-2
    for got in ranks.run(picture, ParallelismConfig.parse(layout).world_size, path, call, layout, order):
        assert np.abs(got - want).max() <= 2e-5  # of pixels in [0, 1]


def communication(layout: str, is_adapted: bool) -> tuple[dict[str, int], dict[str, int]]:
    model, inputs = build("flux", SHAPES["odd"], torch.float32)
    weights = lora(model, 1)
    ditmesh.enable_cache(model, parallelism_config=ParallelismConfig.parse(layout))
    if is_adapted:
        load(model, weights, "style")
    with CommunicationCounter() as counter:
        forward(model, inputs)
    return dict(counter.calls), dict(counter.bytes)


@pytest.mark.parametrize("layout", ["tp2", "ulysses2.tp2"])
def test_adapters_cost_no_communication(ranks: Ranks, layout: str) -> None:
    world = ParallelismConfig.parse(layout).world_size
    assert ranks.run(communication, world, layout, True) == ranks.run(communication, world, layout, False)


def biased(layout: str | None) -> list[Tensor]:
    """An adapter with a bias, unfused and fused."""
    model, inputs = build("flux", SHAPES["odd"], torch.float32)
    model_: Any = model
    targets = ["to_out.0", "ff.net.0.proj", "ff.net.2", "single_transformer_blocks.0.proj_out"]
    torch.manual_seed(3)
    model_.add_adapter(LoraConfig(r=RANK, lora_bias=True, init_lora_weights=False, target_modules=targets))
    for name, parameter in model.named_parameters():
        if "lora_B" in name and name.endswith("bias"):
            nn.init.normal_(parameter)
    if layout:
        ditmesh.enable_cache(model, parallelism_config=ParallelismConfig.parse(layout))
    made = [forward(model, inputs)]
    model_.fuse_lora()
    made.append(forward(model, inputs))
    if layout:
        model_.unfuse_lora()
        made.append(forward(ditmesh.disable_cache(model), inputs))
    return made


def test_a_bias_of_an_adapter_is_added_once(ranks: Ranks) -> None:
    with torch.no_grad():
        want = biased(None)[0]
    for made in ranks.run(biased, 2, "tp2"):
        assert max(relative_error(got, want) for got in made) <= 1e-5


def refused(case: str) -> tuple[str, float]:
    """The error something meets, and how far the model is from what it was without it."""
    built, inputs = build("flux", SHAPES["odd"], torch.float32)
    model: Any = built
    want, weights, config = forward(model, inputs), lora(model, 1), ParallelismConfig(tp_size=2)
    linear = model.transformer_blocks[0].attn.to_q
    magnitudes = {"transformer_blocks.0.attn.to_q.lora_magnitude_vector": torch.ones(linear.out_features)}
    try:
        if case == "DoRA before":
            model.add_adapter(LoraConfig(r=RANK, use_dora=True, target_modules=["to_q"]), "style")
            ditmesh.enable_cache(model, parallelism_config=config)
        ditmesh.enable_cache(model, parallelism_config=config)
        if case == "DoRA":
            load(model, weights | magnitudes, "style")
        elif case == "hotswap":
            load(model, weights, "style")
            model.load_lora_adapter(weights, prefix=None, adapter_name="style", hotswap=True)
        elif case == "LoKr":
            shapes = {"lokr_w1": (8, 8), "lokr_w2": (8, 8)}
            kron = {f"transformer_blocks.0.attn.to_q.{key}": torch.randn(shape) for key, shape in shapes.items()}
            load(model, kron | {"transformer_blocks.0.attn.to_q.alpha": torch.tensor(1.0)}, "style")
        elif case == "by hand":
            model.add_adapter(LoraConfig(r=RANK, target_modules=["to_q"]), "style")
            forward(model, inputs)
        elif case == "dropout":
            targets = sorted({name.rpartition(".lora_")[0] for name in weights})
            metadata = {"r": RANK, "lora_alpha": RANK, "lora_dropout": 0.5, "target_modules": targets}
            model.load_lora_adapter(weights, prefix=None, adapter_name="style", metadata=metadata)
            forward(model, inputs)
        elif case == "replaced":
            model.transformer_blocks[0].attn.to_q = nn.Linear(linear.in_features, linear.out_features)
            forward(model, inputs)
    except ValueError as error:
        if case in ("by hand", "hotswap", "DoRA before"):
            model.unload_lora()
        if case == "dropout":
            model.eval()
            model.disable_lora()
        if case == "replaced":
            ditmesh.disable_cache(model)
        return str(error), relative_error(forward(model, inputs), want)
    return "not refused", 0


def test_what_cannot_be_exact_is_refused_by_name(ranks: Ranks) -> None:
    for case, message in {
        "DoRA before": "adapter 'style' of FLUX.1: transformer_blocks.0.attn.to_q is a DoraLinearVariant",
        "DoRA": "these are DoRA weights, which tp_size cannot shard",
        "LoKr": "transformer_blocks.0.attn.to_q is adapted by a peft.tuners.lokr.layer.Linear",
        "hotswap": "hotswap=True does not work",
        "by hand": "adapter 'style' of transformer_blocks.0.attn.to_q has a width of 32 where the linear has 64",
        "dropout": "drops inputs at random (lora_dropout=0.5)",
        "replaced": "transformer_blocks.0.attn.to_q was replaced by a Linear after enable_cache",
    }.items():
        for error, deviation in ranks.run(refused, 2, case):
            assert message in error, case
            assert deviation <= 1e-5, case


def test_failed_loads_leave_the_shards(ranks: Ranks) -> None:
    assert all(ranks.run(failed_load, 2))


def failed_load() -> bool:
    model, inputs = build("flux", SHAPES["odd"], torch.float32)
    want, weights = forward(model, inputs), lora(model, 1)
    ditmesh.enable_cache(model, parallelism_config=ParallelismConfig(tp_size=2))
    name = "transformer_blocks.0.attn.to_q.lora_B.weight"
    with pytest.raises(RuntimeError, match="size mismatch"):
        load(model, weights | {name: weights[name][:-1]}, "style")
    shapes = [(x.out_features, x.in_features) == tuple(x.weight.shape) for x in model.modules() if type(x) is nn.Linear]
    return all(shapes) and relative_error(forward(model, inputs), want) <= 1e-5
