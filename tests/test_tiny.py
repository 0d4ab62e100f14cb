"""Every tiny pipeline is saved, loaded by diffusers like a real one, and draws something its prompt matters to."""

import json

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from tests.tiny import PIPELINES, TINY, call_kwargs, tiny_path

VISIBLE = 0.002  # a hundred times what a layout may change
# What diffusers does itself: ERNIE-Image reads a tensor as numpy 2 no longer likes, Chroma is made of an old class.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*FluxPosEmbed:FutureWarning"),
]
SHAPES = {
    "qwen_image_edit": (1, 96, 160, 3),
    "qwen_image_edit_plus": (1, 96, 160, 3),
    "qwen_image_layered": (1, 2, 480, 832, 4),  # the alpha channel too
    "longcat_image_edit": (1, 800, 1312, 3),
    "joy_image_edit": (1, 768, 1280, 3),
    "bria_fibo": (1, 96, 160, 3),
    "glm_image": (1, 96, 160, 3),
    "wan": (1, 9, 48, 80, 3),
    "wan_two": (1, 9, 48, 80, 3),
    "wan_i2v": (1, 9, 48, 80, 3),
    "wan_ti2v": (1, 5, 96, 160, 3),
}
# Their pipelines scale what they are given to a megapixel: drawn as seldom as can be.
LARGE = ("qwen_image_edit", "qwen_image_edit_plus", "qwen_image_layered", "longcat_image_edit", "joy_image_edit")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("tiny")


def load(path):
    pipe = DiffusionPipeline.from_pretrained(path, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, **call):
    torch.manual_seed(0)  # some pipelines draw what they encode from torch's own generator
    return np.asarray(pipe(**call, generator=torch.Generator().manual_seed(0), output_type="np")[0])


@pytest.mark.parametrize("name", TINY)
def test_a_tiny_pipeline_draws_what_its_prompt_and_nothing_else_says(name, root):
    pipe = load(tiny_path(name, root))
    call = call_kwargs(name)

    picture = draw(pipe, **call)

    assert picture.shape == SHAPES.get(name, (1, 48, 80, 3))
    assert np.isfinite(picture).all()
    assert picture.std() > 0.05, "one flat colour would hide every error"
    assert ((picture == 0) | (picture == 1)).mean() < 0.25, "a clipped pixel hides an error"
    assert not np.allclose(picture, draw(pipe, **{**call, "prompt": "a yellow triangle"}), atol=VISIBLE)
    if name in LARGE:
        return
    assert np.array_equal(picture, draw(pipe, **call))
    if "negative_prompt" in call:
        assert not np.allclose(picture, draw(pipe, **{**call, "negative_prompt": "a dog"}), atol=VISIBLE)


@pytest.mark.parametrize("name", TINY)
def test_a_tiny_pipeline_is_small_and_its_transformers_have_eight_heads(name, root):
    path = tiny_path(name, root)
    pipe = load(path)
    transformers = [module for part, module in pipe.components.items() if part.startswith("transformer") and module]

    size = sum(file.stat().st_size for file in path.rglob("*"))
    assert size < (25e6 if name == "hunyuan_image" else 10e6)  # whose glyphs are projected to 2048 channels in any case
    heads = [module.config.get("num_attention_heads", module.config.get("n_heads")) for module in transformers]
    assert heads == [8] * len(transformers)
    assert len(transformers) == (2 if name == "wan_two" else 1)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_tiny_pipeline_is_found_by_its_class(pipeline, root):
    index = json.loads((tiny_path(PIPELINES[pipeline], root) / "model_index.json").read_text("utf-8"))
    assert index["_class_name"] == pipeline


def test_every_tiny_pipeline_can_be_found_by_its_class(root):
    names = {
        json.loads((tiny_path(name, root) / "model_index.json").read_text("utf-8"))["_class_name"] for name in TINY
    }
    assert names == set(PIPELINES)


def test_both_wan_22_transformers_take_part(root):
    pipe = load(tiny_path("wan_two", root))
    order = []
    pipe.transformer.register_forward_pre_hook(lambda *_: order.append("noisy"))
    pipe.transformer_2.register_forward_pre_hook(lambda *_: order.append("clear"))

    draw(pipe, **call_kwargs("wan_two"))

    assert order == ["noisy", "noisy", "clear", "clear"]


def test_a_tiny_pipeline_is_the_same_every_time(root, tmp_path):
    first, second = (tiny_path("flux", place) / "transformer" for place in (root, tmp_path))
    weights = "diffusion_pytorch_model.safetensors"
    assert (first / weights).read_bytes() == (second / weights).read_bytes()
