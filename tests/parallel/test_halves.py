"""What a batch of guidance is cut into is exact, or refused by name on both ranks before a wrong picture."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, PixArtSigmaPAGPipeline
from diffusers.models import attention_processor
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor

import ditmesh
from ditmesh import ParallelismConfig
from ditmesh.upstream.dispatcher import MIXES_SAMPLES, keeps_samples_apart
from tests.parallel.test_guidance_sheets import doubled
from tests.ranks import Ranks
from tests.transformers import SHAPES, InFloat64, build, forward, relative_error


def perturbed(layout: str | None, refused: bool = False, **call: Any) -> Tensor | str:
    """The latents of PixArt-Sigma's pipeline for perturbed-attention guidance, or how it refused."""
    model, _ = build("pixart", SHAPES["odd"], torch.float64)
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 4, 4), norm_num_groups=2, down_block_types=("DownEncoderBlock2D",) * 4
    )
    pipe = PixArtSigmaPAGPipeline(None, None, vae, model, DDIMScheduler(), pag_applied_layers="transformer_blocks.1")
    pipe.set_progress_bar_config(disable=True)
    if layout:
        ditmesh.enable_cache(pipe, parallelism_config=ParallelismConfig.parse(layout))
    generator = torch.Generator().manual_seed(1)
    text, other = torch.randn(2, 1, 7, 24, dtype=torch.float64, generator=generator)
    mask = torch.ones(1, 7)
    prompts = {"prompt_embeds": text, "prompt_attention_mask": mask}
    prompts |= {"negative_prompt_embeds": other, "negative_prompt_attention_mask": mask}
    call = {
        "negative_prompt": None,
        "num_inference_steps": 2,
        "height": 64,
        "width": 64,
        "use_resolution_binning": False,
        **prompts,
        **call,
    }
    with InFloat64(), pytest.raises(ValueError, match="cfg_size=2") if refused else nullcontext() as error:
        return pipe(**call, generator=generator, output_type="latent", return_dict=False)[0]
    return str(error.value)


def all_perturbed(layout: str | None, names: list[str], refused: bool = False) -> list[Tensor | str]:
    return [perturbed(layout, refused, **PERTURBED[name]) for name in names]


SAME = torch.ones(1, 4, 8, 8, dtype=torch.float64).expand(2, -1, -1, -1)
PERTURBED: dict[str, dict[str, Any]] = {
    "two branches": {"guidance_scale": 1.0},
    "two branches of two pictures": {"guidance_scale": 1.0, "num_images_per_prompt": 2},
    "three branches": {},
    "three branches of two pictures": {"num_images_per_prompt": 2},
    "three branches of the same two pictures": {"num_images_per_prompt": 2, "latents": SAME},
    "none": {"pag_scale": 0.0},
    "none of two pictures": {"pag_scale": 0.0, "num_images_per_prompt": 2},
}


def test_perturbed_attention_is_refused_and_what_is_advised_works(ranks: Ranks) -> None:
    """Its processors cut a batch into its branches, so that half of one would be another picture."""
    names = list(PERTURBED)
    for messages in ranks.run(all_perturbed, 2, "cfg2", names[:5], True):
        for name, message in zip(names, messages, strict=False):
            assert "tp_size=2, or dp_size=2" in message
            assert ("PAG" if "two branches" in name or "same" in name else "3 branches") in message
    with torch.no_grad():
        want = all_perturbed(None, names)
    for layout, kept in (("cfg2", names[5:]), ("tp2", names)):
        for made in ranks.run(all_perturbed, 2, layout, kept):
            for got, name in zip(made, kept, strict=True):
                assert relative_error(got, want[names.index(name)]) <= 1e-10


class Mixing(AttnProcessor2_0):
    """A user's own processor."""


def refusals() -> list[str]:
    """What is said of a user's processor, of pictures in one branch only, and of rows that belong to nobody."""
    messages = []
    for name, change in CHANGES.items():
        model, inputs = doubled(name, SHAPES["odd"])
        change(model, inputs)
        ditmesh.enable_cache(model, parallelism_config=ParallelismConfig.parse("cfg2"))
        with pytest.raises(ValueError, match="cfg_size=2 cannot halve") as refused:
            forward(model, inputs)
        messages.append(str(refused.value))
    return messages


CHANGES = {
    "pixart": lambda model, inputs: model.set_attn_processor(Mixing()),
    "hunyuan_video15:image": lambda model, inputs: inputs["image_embeds"][:1].zero_(),
    "latte": lambda model, inputs: inputs.update(encoder_hidden_states=torch.randn(4, 7, 24, dtype=torch.float64)),
}


def test_what_cannot_be_halved_is_refused_on_both_ranks(ranks: Ranks) -> None:
    for processor, pictures, rows in ranks.run(refusals, 2):
        assert "attn1 holds a Mixing" in processor
        assert "image_embeds: a batch has pictures if one of its samples has" in pictures
        assert "encoder_hidden_states: it has 4 rows for 2 samples" in rows


def the_same_three_times(layout: str | None) -> list[Tensor]:
    """Two branches a step, one after the other, each of three samples that are alike."""
    model, inputs = build("flux", (3, *SHAPES["odd"][1:]), torch.float64)
    inputs["hidden_states"][:] = inputs["hidden_states"][:1].clone()
    if layout:
        ditmesh.enable_cache(model, parallelism_config=ParallelismConfig.parse(layout))
    with InFloat64():
        first, second = (
            model(**inputs | {"timestep": 0.1 * inputs["timestep"] * i}, return_dict=False)[0] for i in (1, 2)
        )
        return [first - 0.5 * second]


def test_samples_that_are_alike_are_not_taken_for_branches(ranks: Ranks) -> None:
    with torch.no_grad():
        (want,) = the_same_three_times(None)
    for (got,) in ranks.run(the_same_three_times, 2, "cfg2"):
        assert relative_error(got, want) <= 1e-10


def test_every_processor_of_perturbed_attention_is_known() -> None:
    """So that one that diffusers adds is seen here, and not in a picture."""
    named = {kind for name, kind in vars(attention_processor).items() if name.startswith("PAG")}
    assert named == set(MIXES_SAMPLES)
    assert not any(keeps_samples_apart(kind()) for kind in named)
    assert keeps_samples_apart(AttnProcessor2_0())
    assert not keeps_samples_apart(Mixing())
