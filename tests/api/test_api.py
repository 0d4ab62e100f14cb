"""What enable_cache promises around the numbers: it changes this model alone, can be taken back, ignores nothing."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import ditmesh
from ditmesh import ParallelismConfig, TaylorSeerCalibratorConfig
from ditmesh.models import SPECS
from tests.cases import CASES
from tests.ranks import RankFailure, Ranks
from tests.transformers import SHAPES, build, forward, relative_error, serial

EVEN, ODD = SHAPES["even"], SHAPES["odd"]


def enabled(name: str, layout: str, shape: tuple = ODD, **kwargs: Any) -> tuple[nn.Module, dict[str, Any]]:
    model, inputs = build(name, shape, torch.float32)
    return ditmesh.enable_cache(model, parallelism_config=ParallelismConfig.parse(layout), **kwargs), inputs


def state(model: nn.Module) -> list[Any]:
    """Everything of a module that enabling could leave behind."""
    return [
        (
            (name, type(module), vars(module).keys(), vars(module).get("heads")),
            [parameter.requires_grad for parameter in module.parameters(recurse=False)],
            vars(vars(module)["processor"]) if "processor" in vars(module) else None,
            (len(module._forward_hooks), len(module._forward_pre_hooks)),
        )
        for name, module in model.named_modules()
    ]


def enable_and_disable(name: str, layout: str) -> bool:
    model, inputs = build(name, ODD, torch.float32)
    model.requires_grad_(True)
    want, before, weights = forward(model, inputs), state(model), copy.deepcopy(model.state_dict())
    ditmesh.enable_cache(model, parallelism_config=ParallelismConfig.parse(layout))
    forward(model, inputs)
    assert ditmesh.disable_cache(model) is model
    after = model.state_dict()
    assert state(model) == before
    assert all(torch.equal(after[key], weights[key]) for key in weights | after)
    return torch.equal(forward(model, inputs), want)


@pytest.mark.matrix
@pytest.mark.parametrize("layout", ["tp2", "ring2", "ulysses2"])
@pytest.mark.parametrize("name", CASES)
def test_disable_takes_everything_back(ranks: Ranks, name: str, layout: str) -> None:
    assert all(ranks.run(enable_and_disable, 2, name, layout))


def several_in_one_process() -> list[Tensor]:
    """Two layouts and an untouched model side by side, run in turns."""
    bare, inputs = build("flux", ODD, torch.float32)
    cut, _ = enabled("flux", "ulysses2")
    sharded, _ = enabled("flux", "tp2")
    other, other_inputs = enabled("wan", "ring2")
    outputs = []
    for _ in range(2):
        outputs += [forward(model, inputs) for model in (bare, cut, sharded)]
        forward(other, other_inputs)
    return outputs


def test_layouts_and_untouched_models_live_side_by_side(ranks: Ranks) -> None:
    with torch.no_grad():
        want = serial("flux", ODD, torch.float32)
    for outputs in ranks.run(several_in_one_process, 2):
        assert torch.equal(outputs[0], want)
        assert all(relative_error(got, want) <= 1e-5 for got in outputs)


def other_calls(layout: str) -> list[float]:
    """Errors of calls that are not the plain one, on one enabled model."""
    model, inputs = enabled("flux", layout)
    bare, _ = build("flux", ODD, torch.float32)
    longer = build("flux", (2, (4, 7), 3, False), torch.float32)[1]
    residuals = inputs | {
        "controlnet_block_samples": [torch.randn(1, 25, 64) for _ in range(2)],
        "controlnet_single_block_samples": (torch.randn(1, 25, 64),),
    }
    errors = [relative_error(forward(model, call), forward(bare, call)) for call in (inputs, longer, residuals, inputs)]
    errors.append(relative_error(model(**inputs, return_dict=True).sample, bare(**inputs).sample))
    positional = [inputs[key] for key in ("hidden_states", "encoder_hidden_states", "pooled_projections", "timestep")]
    rest = {key: inputs[key] for key in ("img_ids", "txt_ids", "guidance")}
    errors.append(relative_error(model(*positional, **rest).sample, bare(*positional, **rest).sample))
    batched_ids = inputs | {"img_ids": inputs["img_ids"][None], "txt_ids": inputs["txt_ids"][None]}
    errors.append(relative_error(forward(model, batched_ids), forward(bare, inputs)))
    with torch.enable_grad():
        errors.append(relative_error(forward(model.requires_grad_(True), inputs).detach(), forward(bare, inputs)))
    return errors


@pytest.mark.parametrize("layout", ["tp2", "ring2", "ulysses2"])
def test_one_enabled_model_takes_every_call(ranks: Ranks, layout: str) -> None:
    for errors in ranks.run(other_calls, 2, layout):
        assert max(errors) <= 1e-5


def two_transformers() -> list[float]:
    """A pipeline with two transformers, as Wan 2.2 has."""
    bare = [build("wan", ODD, torch.float32, seed) for seed in (0, 1)]
    models = {f"transformer_{i}": build("wan", ODD, torch.float32, i)[0] for i in (0, 1)}
    pipe = SimpleNamespace(components=models | {"scheduler": object()})
    assert ditmesh.enable_cache(pipe, parallelism_config=ParallelismConfig(ulysses_size=2)) is pipe
    return [
        relative_error(forward(model, inputs), forward(one, inputs))
        for model, (one, inputs) in zip(models.values(), bare, strict=True)
    ]


def test_both_transformers_of_a_pipeline_are_enabled(ranks: Ranks) -> None:
    assert max(max(errors) for errors in ranks.run(two_transformers, 2)) <= 1e-5


def modulation_shards(layout: str) -> dict[str, int]:
    model, _ = enabled("qwen_image", layout)
    return {name: parameter.numel() for name, parameter in model.named_parameters()}


def test_a_rank_holds_its_share_of_every_block(ranks: Ranks) -> None:
    whole = {name: p.numel() for name, p in build("qwen_image", ODD, torch.float32)[0].named_parameters()}
    shards = ranks.run(modulation_shards, 4, "tp4")
    for name, size in whole.items():
        if name.startswith("transformer_blocks") and name.endswith("weight") and "norm" not in name:
            assert [shard[name] for shard in shards] == [size // 4] * 4, name


def no_layout() -> None:
    model, inputs = build("flux", ODD, torch.float32)
    before = state(model)
    ditmesh.enable_cache(model, parallelism_config=ParallelismConfig())
    after = state(model)
    assert [entry[1:] for entry in after] == [entry[1:] for entry in before]
    assert torch.equal(forward(model, inputs), serial("flux", ODD, torch.float32))


def test_no_layout_leaves_the_model_as_it_is() -> None:
    with torch.no_grad():
        no_layout()


def test_the_kernel_can_be_chosen_without_a_layout() -> None:
    model, inputs = build("wan", ODD, torch.float32)
    other, _ = build("wan", ODD, torch.float32)
    with torch.no_grad():
        want = forward(model, inputs)
        ditmesh.enable_cache(model, attention_backend="_native_math")
        assert relative_error(forward(model, inputs), want) <= 1e-5
    kernels = {
        type(module.processor._attention_backend).__name__ for module in model.modules() if "processor" in vars(module)
    }
    assert kernels == {"AttentionBackendName"}
    assert all(module.processor._attention_backend is None for module in other.modules() if "processor" in vars(module))


def refusal(call: Any) -> str:
    with pytest.raises(ValueError, match=r".") as error:
        call()
    return str(error.value)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "Fn_compute_blocks=8 and Bn_compute_blocks=0 are more than the 4 blocks"),
        ({"attention_backend": "native", "calibrator_config": TaylorSeerCalibratorConfig()}, "change a cache"),
        ({"parallelism_config": ParallelismConfig(tp_size=5)},
         "tp_size=5 does not divide FLUX.1's 8 attention heads; use 1, 2, 4 or 8, "
         "or cut the sequence instead: ring_size=5."),
        ({"parallelism_config": ParallelismConfig(ulysses_size=5, tp_size=2)}, "ulysses_size=5 is more than"),
        ({"parallelism_config": ParallelismConfig(ulysses_size=2)}, "ulysses2 needs 2 ranks and this job has 1"),
        ({"parallelism_config": ParallelismConfig(dp_size=2)}, "dp2 needs 2 ranks and this job has 1"),
        (
            {"parallelism_config": ParallelismConfig(extra_parallel_modules=("vae",))},
            "extra_parallel_modules: there is no module 'vae'",
        ),
        ({"attention_backend": "falsh"}, "there is no attention backend 'falsh'"),
        ({"attention_backend": "flash"}, "attention backend 'flash' cannot run here"),
        ({"attention_backend": "_native_cudnn"}, "runs on CUDA"),
        ({"attention_backend": "native", "parallelism_config": ParallelismConfig(attention_backend="flash")},
         "pass one of them"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused(kwargs: dict[str, Any], message: str) -> None:
    model, _ = build("flux", ODD, torch.float32)
    before = state(model)
    assert message in refusal(lambda: ditmesh.enable_cache(model, **kwargs))
    assert state(model) == before


def test_a_class_without_a_sheet_is_refused_by_name() -> None:
    message = refusal(lambda: ditmesh.enable_cache(nn.Linear(2, 2), parallelism_config=ParallelismConfig()))
    assert "Linear has no transformer that ditmesh knows" in message
    assert all(name in message for name in SPECS)


def refusals_on_ranks() -> dict[str, str]:
    """Messages of what can only be refused where ranks run; each model must be as before."""
    messages = {}

    def keep(name: str, model: nn.Module, **kwargs: Any) -> None:
        before = state(model)
        messages[name] = refusal(lambda: ditmesh.enable_cache(model, **kwargs))
        assert state(model) == before

    flux = "flux"
    model, inputs = build(flux, ODD, torch.float32)
    model.fuse_qkv_projections()
    keep("fused", model, parallelism_config=ParallelismConfig(tp_size=2))
    model, _ = build(flux, ODD, torch.float32)
    model.transformer_blocks[0].attn.to_q = nn.Sequential(model.transformer_blocks[0].attn.to_q)
    keep("wrapped", model, parallelism_config=ParallelismConfig(tp_size=2))
    model, _ = build(flux, ODD, torch.float32)
    model.single_transformer_blocks[1].attn.processor = SimpleNamespace(_attention_backend=None)
    keep("processor", model, parallelism_config=ParallelismConfig(ulysses_size=2))
    model, _ = build(flux, ODD, torch.float32)
    keep("kernel", model, parallelism_config=ParallelismConfig(ring_size=2), attention_backend="sage")
    model, _ = enabled(flux, "ulysses2")
    keep("twice", model, parallelism_config=ParallelismConfig(ulysses_size=2))
    model.transformer_blocks[0].attn.processor = copy.copy(model.transformer_blocks[1].attn.processor)
    messages["replaced"] = refusal(lambda: forward(model, inputs))
    ditmesh.disable_cache(model)
    messages["disabled"] = refusal(lambda: ditmesh.disable_cache(model))
    return messages


def test_what_ranks_refuse(ranks: Ranks) -> None:
    for messages in ranks.run(refusals_on_ranks, 2):
        assert "does not say how to shard transformer_blocks.0.attn.to_qkv" in messages["fused"]
        assert "is a Sequential, which tensor parallelism cannot shard" in messages["wrapped"]
        assert "single_transformer_blocks.1.attn holds a SimpleNamespace" in messages["processor"]
        assert "needs the log-sum-exp" in messages["kernel"]
        assert "enabled already; call ditmesh.disable_cache first" in messages["twice"]
        assert "was replaced after enable_cache" in messages["replaced"]
        assert "is not enabled" in messages["disabled"]


def shared_processor() -> float:
    """One processor instance in every layer, as set_attn_processor leaves it."""
    model, inputs = build("wan", ODD, torch.float32)
    want = forward(model, inputs)
    model.set_attn_processor(type(model.blocks[0].attn1.processor)())
    ditmesh.enable_cache(model, parallelism_config=ParallelismConfig(ulysses_size=2))
    return relative_error(forward(model, inputs), want)


def test_a_shared_processor_is_not_confused(ranks: Ranks) -> None:
    assert max(ranks.run(shared_processor, 2)) <= 1e-5


def masked_where_the_sheet_knows_no_mask() -> str:
    model, inputs = enabled("flux", "ulysses2")
    mask = torch.ones(1, 1, 1, 16, dtype=torch.bool)
    return refusal(lambda: model(**inputs, joint_attention_kwargs={"attention_mask": mask}))


def test_a_mask_the_sheet_does_not_cut_is_refused(ranks: Ranks) -> None:
    assert all("mask" in message for message in ranks.run(masked_where_the_sheet_knows_no_mask, 2))


def fail_on_rank_one() -> None:
    if dist.get_rank() == 1:
        raise ValueError("only here")
    dist.barrier()


def test_a_failing_rank_fails_the_case(ranks: Ranks) -> None:
    with pytest.raises(RankFailure, match="only here"):
        ranks.run(fail_on_rank_one, 2)
