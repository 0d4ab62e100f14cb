"""Guidance parallelism on whole pipelines: two ranks, a branch each, and the latents of one process to the bit."""

from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers.models.transformers.transformer_glm_image import GlmImageKVCache
from torch import Tensor

import ditmesh
from ditmesh import DBCacheConfig, ParallelismConfig
from tests.parallel.guidance import check, refusal
from tests.parallel.test_guidance_sheets import count_forwards
from tests.ranks import Ranks
from tests.tiny import call_kwargs, tiny_path
from tests.transformers import SHAPES, InFloat64, build

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*FluxPosEmbed:FutureWarning"),
]
TWO_CALLS = (
    "flux", "flux_kontext", "qwen_image", "qwen_image_edit", "chroma", "cogview4", "longcat_image", "lumina2", "krea2",
    "ovis_image", "hunyuan_image", "wan", "wan_two", "wan_i2v", "wan_vace", "skyreels_v2", "joy_image_edit",
    "qwen_image_controlnet", "hunyuan_video", "hunyuan_video15", "glm_image",
)  # fmt: skip
ONE_BATCH = ("sd3", "z_image", "ltx", "cogvideox", "mochi", "bria_fibo", "ernie_image")


@pytest.mark.parametrize("name", TWO_CALLS)
def test_a_rank_runs_its_own_of_two_calls(ranks: Ranks, tmp_path: Path, name: str) -> None:
    assert check(ranks, tmp_path, name, [call_kwargs(name)], 0) == [50, 50]


@pytest.mark.parametrize("name", ONE_BATCH)
def test_a_rank_runs_its_half_of_one_batch(ranks: Ranks, tmp_path: Path, name: str) -> None:
    assert check(ranks, tmp_path, name, [call_kwargs(name)], 1e-5) == [50, 50]


def test_a_third_call_is_waited_for(ranks: Ranks, tmp_path: Path) -> None:
    """LTX-2 asks for both branches in one batch, and then once more, without the other modality."""
    check(ranks, tmp_path, "ltx2", [call_kwargs("ltx2")], 1e-5, waits=2)


def test_requests_follow_each_other(ranks: Ranks, tmp_path: Path) -> None:
    call = call_kwargs("qwen_image")
    two = call | {"prompt": ["a cat", "a dog"], "negative_prompt": ["a red cat", "a blue dog"]}
    assert check(ranks, tmp_path, "qwen_image", [call, two, call | {"width": 48}], 0) == [50, 50]


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("qwen_image", "cfg2.ulysses2"),
        ("qwen_image", "cfg2.tp2"),
        ("qwen_image", "cfg2.ring2"),
        ("qwen_image", "cfg2.ulysses2.tp2"),
        ("sd3", "cfg2.ulysses2.tp2"),
    ],
)
def test_a_branch_runs_on_several_ranks(ranks: Ranks, tmp_path: Path, name: str, layout: str) -> None:
    """Which share the text encoders and the VAE, too."""
    extras = ["text_encoder", "text_encoder_2", "text_encoder_3", "vae"]
    shares = check(ranks, tmp_path, name, [call_kwargs(name)], 1e-4, layout, extras=extras, output="np")
    assert set(shares) == {50}


@pytest.mark.parametrize(
    ("name", "changed"), [("lumina2", {"cfg_trunc_ratio": 0.5}), ("z_image", {"cfg_truncation": 0.3})]
)
def test_guidance_may_end_early(ranks: Ranks, tmp_path: Path, name: str, changed: dict) -> None:
    """The second rank waits in the steps without."""
    call = call_kwargs(name) | changed | {"num_inference_steps": 4}
    assert check(ranks, tmp_path, name, [call], 1e-5, waits=2) == [66, 33]


def test_guidance_may_begin_late(ranks: Ranks, tmp_path: Path) -> None:
    guiders = {name: {"start": 0.5} for name in ("guider", "ocr_guider")}
    call = call_kwargs("hunyuan_image") | {"num_inference_steps": 4}
    assert check(ranks, tmp_path, "hunyuan_image", [call], 1e-5, guiders=guiders, waits=2) == [66, 33]


def test_some_steps_may_have_a_third_branch(ranks: Ranks, tmp_path: Path) -> None:
    skipped = {"skip_guidance_layers": [1], "skip_layer_guidance_start": 0.3, "skip_layer_guidance_stop": 0.7}
    call = call_kwargs("sd3") | skipped | {"num_inference_steps": 4}
    assert check(ranks, tmp_path, "sd3", [call], 1e-5, waits=1) == [55, 44]


@pytest.mark.parametrize(
    ("name", "changed", "tolerance"),
    [
        ("ltx", {"guidance_rescale": 0.7}, 1e-5),
        ("lumina2", {"cfg_normalization": True}, 0),
        ("z_image", {"cfg_normalization": 0.5}, 1e-5),
        ("qwen_image", {"true_cfg_scale": 6.0}, 0),
    ],
)
def test_guidance_may_be_rescaled(ranks: Ranks, tmp_path: Path, name: str, changed: dict, tolerance: float) -> None:
    """By the norms of both branches; Qwen-Image always does."""
    assert check(ranks, tmp_path, name, [call_kwargs(name) | changed], tolerance) == [50, 50]


def edited(layout: str | None) -> list[Tensor]:
    """Two steps of GLM-Image after it has seen a picture to edit: one branch reads what it kept, the other does not."""
    model, inputs = build("glm_image", SHAPES["odd"], torch.float64)
    seen = count_forwards(model)
    if layout:
        ditmesh.enable_cache(model, parallelism_config=ParallelismConfig.parse(layout))
    caches, made = GlmImageKVCache(num_layers=2), []
    call = partial(model, **inputs, kv_caches=caches, return_dict=False)
    with InFloat64():
        caches.set_mode("write")
        call()
        for _ in range(2):
            branches = []
            for mode in ("read", "skip"):
                caches.set_mode(mode)
                branches.append(call()[0])
            made.append(branches[0] - 0.5 * branches[1])
    return [*made, torch.tensor(len(seen))]


def test_what_was_kept_of_a_picture_is_read_by_its_branch(ranks: Ranks) -> None:
    """Every rank keeps it, since the call that does belongs to no branch."""
    with torch.no_grad():
        *wants, whole = edited(None)
    assert whole == 5
    for *made, seen in ranks.run(edited, 2, "cfg2"):
        assert seen == 3
        assert all(got.equal(want) for got, want in zip(made, wants, strict=True))


@pytest.mark.parametrize(
    ("name", "layout", "when"), [("flux", "cfg2", "before"), ("flux", "cfg2.tp2", "after"), ("sd3", "cfg2", "after")]
)
def test_branches_are_adapted_alike(ranks: Ranks, tmp_path: Path, name: str, layout: str, when: str) -> None:
    assert set(check(ranks, tmp_path, name, [call_kwargs(name)], 1e-4, layout, lora=when)) == {50}


@pytest.mark.parametrize("name", ["flux", "z_image"])
def test_compiled_blocks_run_a_branch(ranks: Ranks, tmp_path: Path, name: str) -> None:
    assert check(ranks, tmp_path, name, [call_kwargs(name)], 1e-5, compiled=True) == [50, 50]


@pytest.mark.parametrize(("name", "tolerance"), [("wan", 0), ("sd3", 1e-5)])
def test_a_branch_has_a_cache_of_its_own(ranks: Ranks, tmp_path: Path, name: str, tolerance: float) -> None:
    cache = DBCacheConfig(Fn_compute_blocks=1, max_warmup_steps=1, residual_diff_threshold=0.9)
    check(ranks, tmp_path, name, [call_kwargs(name) | {"num_inference_steps": 4}], tolerance, cache=cache)


@pytest.mark.parametrize(
    ("name", "changed", "words"),
    [
        ("flux", {"negative_prompt": None}, ["runs FLUX.1 once a step", "its guidance is distilled"]),
        ("flux2", {}, ["runs FLUX.2 once a step", "its guidance is distilled"]),
        (
            "qwen_image",
            {"true_cfg_scale": 1.0},
            ["runs Qwen-Image once a step", "no second branch to share out. Ask"],
        ),
        ("sd3", {"guidance_scale": 1.0}, ["runs Stable Diffusion 3 once a step"]),
        ("lumina2", {"guidance_scale": 1.0}, ["runs Lumina-Image 2.0 once a step"]),
        ("wan", {"guidance_scale": 1.0}, ["runs Wan once a step"]),
    ],
)
def test_a_request_without_guidance_is_refused_on_both_ranks(
    ranks: Ranks, tmp_path: Path, name: str, changed: dict, words: list[str]
) -> None:
    for message in ranks.run(refusal, 2, tiny_path(name, tmp_path), call_kwargs(name) | changed, None):
        for word in [*words, "a negative prompt, with true_cfg_scale", "ulysses_size=2", "dp_size=2"]:
            assert word in message


def test_the_difference_of_a_branch_on_another_rank_is_refused(ranks: Ranks, tmp_path: Path) -> None:
    cache = DBCacheConfig(cfg_diff_compute_separate=False)
    for message in ranks.run(refusal, 2, tiny_path("wan", tmp_path), call_kwargs("wan"), cache):
        assert "use cfg_diff_compute_separate=True" in message
