"""Guidance parallelism on whole pipelines: two ranks, a branch each, and the latents of one process to the bit."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

import ditmesh
from ditmesh import DBCacheConfig, ParallelismConfig
from tests.ranks import Ranks
from tests.tiny import call_kwargs, tiny_path

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*FluxPosEmbed:FutureWarning"),
]
TWO_CALLS = (
    "flux", "flux_kontext", "qwen_image", "qwen_image_edit", "chroma", "cogview4", "longcat_image", "lumina2", "krea2",
    "ovis_image", "hunyuan_image", "wan", "wan_two", "wan_i2v", "wan_vace", "skyreels_v2", "joy_image_edit",
    "qwen_image_controlnet", "hunyuan_video15",
)  # fmt: skip
ONE_BATCH = ("sd3", "z_image", "ltx", "cogvideox", "mochi", "bria_fibo", "ernie_image")


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
    if layout or cache:
        parallelism = ParallelismConfig.parse(layout) if layout else ParallelismConfig()
        names = [name for name in options.get("extras", ()) if name in pipe.components]
        sizes = {f"{axis}_size": size for axis, size in parallelism.sizes.items()}
        config = ParallelismConfig(**sizes, parallel_kwargs={"extra_parallel_modules": names}) if layout else None
        ditmesh.enable_cache(pipe, cache, parallelism_config=config)
    if options.get("compiled"):
        pipe.transformer.compile_repeated_blocks(backend="eager")
    drawn = []
    for call in calls:
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(0)
        drawn.append(pipe(**call, generator=generator, output_type="latent", return_dict=False)[0])
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


@pytest.mark.parametrize("layout", ["cfg2.ulysses2", "cfg2.tp2", "cfg2.ring2"])
def test_a_branch_runs_on_several_ranks(ranks: Ranks, tmp_path: Path, layout: str) -> None:
    extras = ["text_encoder", "vae"]
    check(ranks, tmp_path, "qwen_image", [call_kwargs("qwen_image")], 1e-4, layout, extras=extras)


@pytest.mark.parametrize(("name", "tolerance"), [("wan", 0), ("sd3", 1e-5)])
def test_a_branch_has_a_cache_of_its_own(ranks: Ranks, tmp_path: Path, name: str, tolerance: float) -> None:
    cache = DBCacheConfig(Fn_compute_blocks=1, max_warmup_steps=1, residual_diff_threshold=0.9)
    check(ranks, tmp_path, name, [call_kwargs(name) | {"num_inference_steps": 4}], tolerance, cache=cache)


def refusal(path: Path, call: dict[str, Any], cache: DBCacheConfig | None) -> str:
    with pytest.raises(ValueError, match="cfg_size=2") as refused:
        draw(path, [call], "cfg2", cache)
    return str(refused.value)


def test_a_request_without_guidance_is_refused_on_both_ranks(ranks: Ranks, tmp_path: Path) -> None:
    call = {name: x for name, x in call_kwargs("flux").items() if name != "negative_prompt"}
    for message in ranks.run(refusal, 2, tiny_path("flux", tmp_path), call, None):
        assert "runs FLUX.1 once a step" in message
        assert "a negative prompt, with true_cfg_scale" in message
        assert "ulysses_size=2" in message


def test_the_difference_of_a_branch_on_another_rank_is_refused(ranks: Ranks, tmp_path: Path) -> None:
    cache = DBCacheConfig(cfg_diff_compute_separate=False)
    for message in ranks.run(refusal, 2, tiny_path("wan", tmp_path), call_kwargs("wan"), cache):
        assert "use cfg_diff_compute_separate=True" in message
