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
# What is drawn, if it is not of the size in the call.
SHAPES = {
    "qwen_image_edit": (1, 96, 160, 3),
    "qwen_image_edit_plus": (1, 96, 160, 3),
    "qwen_image_layered": (1, 2, 480, 832, 4),  # the alpha channel too
    "longcat_image_edit": (1, 800, 1312, 3),
    "joy_image_edit": (1, 768, 1280, 3),
    "bria_fibo": (1, 96, 160, 3),
    "glm_image": (1, 96, 160, 3),
}
# Their pipelines scale what they are given to a megapixel: drawn as seldom as can be.
LARGE = ("qwen_image_edit", "qwen_image_edit_plus", "qwen_image_layered", "longcat_image_edit", "joy_image_edit")
# A projection in their transformers is 2048 wide whatever the configuration.
WIDE = ("hunyuan_video15", "hunyuan_image")
FRAMES = {
    "hunyuan_video_framepack": (17,),  # whole sections, and the image they begin with
    "hunyuan_video_i2v": (5,),  # without those of the image
}


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

    frames = FRAMES.get(name, (call["num_frames"],) if "num_frames" in call else ())
    shape = SHAPES.get(name) or (*frames, call["height"], call["width"], 3)
    assert picture.shape in ((1, *shape), shape)
    assert np.isfinite(picture).all()
    assert picture.std() > 0.05, "one flat colour would hide every error"
    assert ((picture == 0) | (picture == 1)).mean() < 0.25, "a clipped pixel hides an error"
    assert not np.allclose(picture, draw(pipe, **{**call, "prompt": "a yellow triangle"}), atol=VISIBLE)
    if name not in LARGE and "negative_prompt" in call:
        assert not np.allclose(picture, draw(pipe, **{**call, "negative_prompt": "a dog"}), atol=VISIBLE)


@pytest.mark.parametrize("name", TINY)
def test_a_tiny_pipeline_is_small_and_its_transformers_have_eight_heads(name, root):
    path = tiny_path(name, root)
    pipe = load(path)
    transformers = [module for part, module in pipe.components.items() if part.startswith("transformer") and module]

    assert sum(file.stat().st_size for file in path.rglob("*")) < (25e6 if name in WIDE else 10e6)
    heads = [module.config.get("num_attention_heads", module.config.get("n_heads")) for module in transformers]
    assert heads == [8] * len(transformers)
    assert len(transformers) == (2 if name == "wan_two" else 1)


def test_every_class_of_pipeline_is_found_by_its_name(root):
    found = {json.loads((tiny_path(name, root) / "model_index.json").read_text())["_class_name"] for name in TINY}
    assert found == set(PIPELINES)
    for pipeline, name in PIPELINES.items():
        assert json.loads((tiny_path(name, root) / "model_index.json").read_text())["_class_name"] == pipeline


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
