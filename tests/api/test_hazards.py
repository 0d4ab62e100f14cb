"""The known ways to make a wrong picture on several ranks, to hang or to refuse what should run: one test for each.

A name begins with the section of the catalogue of hazards and its line there: 10.1 wrong results without a word, 10.2
configurations that do not run (10.3, what is asked for and dropped, is in ``test_hazards_dropped``). A docstring says
what goes wrong elsewhere.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ditmesh
from ditmesh import ParallelismConfig
from ditmesh.models import SPECS
from tests.models.test_parity import check
from tests.parallel import text_encoders
from tests.parallel.test_text_encoder import assert_equal, one_process
from tests.parallel.test_vae import check as check_vae
from tests.parallel.vaes import CASES as VAES
from tests.ranks import Ranks
from tests.transformers import SHAPES, build, forward, parallel, relative_error, serial

ODD, EVEN = SHAPES["odd"], SHAPES["even"]
FLOAT32 = torch.float32


def same(ranks: Ranks, name: str, *layouts: str, shape: str = "odd") -> None:
    """Every rank of each layout computes what one process does, to 1e-5."""
    for layout in layouts:
        check(ranks, name, layout, shape, FLOAT32)


def enabled(name: str, layout: str, **kwargs: Any) -> tuple[nn.Module, dict[str, Any]]:
    model, inputs = build(name, ODD, FLOAT32)
    return ditmesh.enable_cache(model, parallelism_config=ParallelismConfig.parse(layout), **kwargs), inputs


def refusal(call: Any, kind: type[Exception] = ValueError) -> str:
    with pytest.raises(kind, match=r".") as error:
        call()
    return str(error.value)


# 10.1 Wrong results, without a word


@pytest.mark.parametrize(("name", "tokens"), [("wan_vace", 8), ("wan_vace:long_text", 512)])
def test_10_1_01_wan_vace_ranks_see_the_whole_prompt(ranks: Ranks, name: str, tokens: int) -> None:
    """The prompt is cut at every block, but cross-attention does not communicate: a rank sees its part of the text."""
    assert build(name, EVEN, FLOAT32)[1]["encoder_hidden_states"].shape[1] == tokens
    same(ranks, name, "ulysses2", "ring2", shape="even")


def test_10_1_02_ltx2_keeps_its_gates(ranks: Ranks) -> None:
    """A frozen copy of the attention processor has no gates, and drops them; tensor parallelism raises."""
    assert any("to_gate_logits" in name for name, _ in build("ltx2:gated", ODD, FLOAT32)[0].named_parameters())
    same(ranks, "ltx2:gated", "ulysses2", "tp2", "ulysses2.tp2")


def test_10_1_03_chroma_masks_follow_their_tokens(ranks: Ranks) -> None:
    """The padding mask of the prompt stays in its own order while ranks interleave the tokens it is for."""
    same(ranks, "chroma", "ulysses2", "ulysses4", "ring2", shape="masked")


def test_10_1_04_ovis_image_shards_biases_as_their_weights(ranks: Ranks) -> None:
    """The weights of a gated feed-forward are permuted to be cut, and their biases are not."""
    bias = build("ovis_image", ODD, FLOAT32)[0].transformer_blocks[0].ff.net[0].proj.bias
    assert bias.abs().min() > 0
    same(ranks, "ovis_image", "tp2", "tp4")


def test_10_1_05_anyflow_norms_span_all_heads(ranks: Ranks) -> None:
    """A norm over the width of all heads is taken over those of one rank."""
    same(ranks, "anyflow", "tp2", "tp4")


def test_10_1_06_joyimage_takes_its_own_part_in_a_hybrid(ranks: Ranks) -> None:
    """A rank's part of the sequence is found by its number in the whole job, also when half of it shards weights."""
    same(ranks, "joyimage", "ulysses2.tp2", "ring2.tp2")


def test_10_1_07_flux2_shards_an_mlp_of_any_width(ranks: Ranks) -> None:
    """The packed [attention | MLP] is taken apart at a quarter, which is right for an MLP three times as wide only."""
    same(ranks, "flux2:mlp_ratio_4", "tp2")


def block_parameters(layout: str) -> int:
    """Elements of the weight matrices in a rank's blocks."""
    model, _ = enabled("skyreels_v2", layout) if layout else build("skyreels_v2", ODD, FLOAT32)
    weights = [module.weight for module in model.blocks.modules() if isinstance(module, nn.Linear)]
    return sum(weight.numel() for weight in weights)


def test_10_1_08_skyreels_shards_are_half_of_the_weights(ranks: Ranks) -> None:
    """The plan names modules that do not exist, the error is swallowed, and every rank keeps all weights."""
    assert [2 * kept for kept in ranks.run(block_parameters, 2, "tp2")] == [block_parameters("")] * 2
    same(ranks, "skyreels_v2", "tp2")


@pytest.mark.parametrize("world", [3, 4])
def test_10_1_09_a_vae_gives_every_rank_the_same_every_time(ranks: Ranks, world: int) -> None:
    """A rank that passes results on receives into the buffer it is sending: ranks past the first read garbage."""
    scale = VAES["kl_deep"].scale
    check_vae(ranks, "kl_deep", world, FLOAT32, [("encode", 5 * scale, 1), ("decode", 7, 1)] * 4)


def beside_enabled_ones() -> list[float]:
    """Errors of models that were not enabled, made before and after their class was."""
    names = ("wan", "pixart", "dit")
    before = {name: build(name, ODD, FLOAT32) for name in names}
    want = {name: forward(*before[name]) for name in names}
    for name in names:
        forward(*enabled(name, "ulysses2"))
        forward(*enabled(name, "tp2"))
    after = {name: build(name, ODD, FLOAT32) for name in names}
    return [relative_error(forward(*made[name]), want[name]) for made in (before, after) for name in names]


def test_10_1_11_models_beside_a_parallel_one_are_untouched(ranks: Ranks) -> None:
    """Processors are patched for their whole class, and another model of the process fails on what it has not."""
    assert ranks.run(beside_enabled_ones, 2) == [[0.0] * 6] * 2


# 10.2 Configurations that do not run


@pytest.mark.parametrize("name", ["ltx2", "ltx", "kandinsky5", "mochi", "hunyuan_dit", "glm_image"])
def test_10_2_01_hybrids_of_every_model_run(ranks: Ranks, name: str) -> None:
    """Plans register themselves when they are imported, and a hybrid finds none after the first import."""
    same(ranks, name, "ulysses2.tp2")


def context_first(name: str) -> Tensor:
    """Tensor parallelism of a model, in a process that has another one whose sequence is cut."""
    forward(*enabled("wan", "ulysses2"))
    return parallel(name, "tp2", ODD, FLOAT32)


@pytest.mark.parametrize("name", ["mochi", "hunyuan_dit", "glm_image"])
def test_10_2_01_tensor_parallelism_runs_after_context_parallelism(ranks: Ranks, name: str) -> None:
    """The same: any context parallelism in a process hides the plans of tensor parallelism."""
    with torch.no_grad():
        want = serial(name, ODD, FLOAT32)
    assert all(relative_error(got, want) <= 1e-5 for got in ranks.run(context_first, 2, name))


@pytest.mark.parametrize(
    "name", ["Mistral3ForConditionalGeneration", "Gemma3ForConditionalGeneration", "GlmModel", "Glm4ForCausalLM"]
)
def test_10_2_02_text_encoders_of_this_transformers_are_shared(ranks: Ranks, name: str) -> None:
    """Plans reach for attributes that transformers 5 has moved, or cut an MLP by two plans at once."""
    inputs = text_encoders.prompts()
    for got, _, _ in ranks.run(text_encoders.parallel, 2, 2, name, FLOAT32, **inputs):
        assert_equal(got, one_process(name, FLOAT32))


def test_10_2_02_clip_may_be_named_with_the_others(ranks: Ranks) -> None:
    """The example that names FLUX.1's first text encoder fails, for there is no plan for it."""
    assert ranks.run(text_encoders.kept_whole, 2, 2, "CLIPTextModel") == [["CLIPTextModel: 0.0 MiB, it is small"]] * 2


def test_10_2_03_qwen_image_counts_its_heads_once(ranks: Ranks) -> None:
    """The processor works the width of a head out of the number of heads, which was halved before."""
    same(ranks, "qwen_image", "tp2", "ulysses2.tp2", "ring2.tp2")


def test_10_2_04_qwen_image_takes_prompts_of_different_lengths(ranks: Ranks) -> None:
    """The mask of a batch of prompts has the length of the whole text, and its tokens that of a shard."""
    same(ranks, "qwen_image", "ulysses2", "ring2", shape="masked")


@pytest.mark.parametrize("name", ["ernie_image", "krea2"])
def test_10_2_05_lengths_need_not_divide(ranks: Ranks, name: str) -> None:
    """Ranks of different lengths send each other messages of sizes that do not meet: an abort, or a hang."""
    for shape, layout in (("batch2", "ulysses2"), ("odd", "ulysses3")):
        _, (height, width), text, _ = SHAPES[shape]
        assert (height * width + text) % ParallelismConfig.parse(layout).world_size
        same(ranks, name, layout, shape=shape)


def as_dataclass(name: str, layout: str) -> float:
    model, inputs = enabled(name, layout)
    return relative_error(model(**inputs, return_dict=True).sample, build(name, ODD, FLOAT32)[0](**inputs).sample)


@pytest.mark.parametrize("name", ["flux", "kandinsky5", "wan"])
def test_10_2_06_outputs_with_names_are_gathered(ranks: Ranks, name: str) -> None:
    """A gather at the root expects a tensor or a tuple, and gets ``return_dict=True``'s object."""
    assert max(ranks.run(as_dataclass, 2, name, "ulysses2")) <= 1e-5


def test_10_2_06_one_refiner_layer_is_the_first_and_the_last(ranks: Ranks) -> None:
    """Z-Image with one refiner layer: the cut before the first and the gather after the last overwrite each other."""
    same(ranks, "z_image:one_refiner", "ulysses2", "ring2")


def test_10_2_06_options_that_cannot_work_do_not_exist() -> None:
    """A rotation by all-gather and a size of its own for the VAE are accepted, and fail or recurse when used."""
    assert "ParallelismConfig has no field 'rotate_method'" in refusal(lambda: ParallelismConfig(rotate_method="a"))
    assert "ParallelismConfig has no field 'vae_world_size'" in refusal(lambda: ParallelismConfig(vae_world_size=2))


@pytest.mark.parametrize("switch", ["", "enable_tiling"])
def test_10_2_06_a_vae_may_have_fewer_rows_and_tiles_than_ranks(ranks: Ranks, switch: str) -> None:
    """Ranks without a tile fail on the first of their list, and the others wait for them."""
    scale = VAES["kl_deep"].scale
    check_vae(ranks, "kl_deep", 4, FLOAT32, [("decode", 1, 1), ("encode", scale, 1), ("decode", 3, 1)], switch)


@pytest.mark.parametrize("name", ["hunyuan_video15", "hunyuan_video_framepack"])
def test_10_2_07_models_are_told_apart_by_their_whole_name(ranks: Ranks, name: str) -> None:
    """A class is taken for the first whose name it begins with: HunyuanVideo's plan for quite other blocks."""
    kind = type(build(name, ODD, FLOAT32)[0]).__name__
    assert kind.startswith("HunyuanVideo")
    assert SPECS[kind].cp_plan != SPECS["HunyuanVideoTransformer3DModel"].cp_plan
    same(ranks, name, "ulysses2", "tp2")


def test_10_2_07_a_name_that_only_begins_like_one_is_refused() -> None:
    """The same, of a class that nobody has described."""
    model = build("wan", ODD, FLOAT32)[0]
    model.__class__ = type("WanTransformer3DModelOfMine", (type(model),), {})
    config = ParallelismConfig(tp_size=2)
    assert "WanTransformer3DModelOfMine has no transformer that ditmesh knows" in refusal(
        lambda: ditmesh.enable_cache(model, parallelism_config=config)
    )


@pytest.mark.parametrize(
    ("name", "layout"),
    [("flux", "tp2"), ("flux", "ring2"), ("flux", "ulysses3"), ("wan", "tp2"), ("ltx", "tp2"), ("flux", "ring3")],
)
def test_10_2_08_everything_runs_on_a_cpu(ranks: Ranks, name: str, layout: str) -> None:
    """Tensor parallelism asks for an accelerator, and the ring for its kernel; the command line is in test_generate."""
    same(ranks, name, layout)
