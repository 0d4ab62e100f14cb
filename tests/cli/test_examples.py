"""Every example draws with a tiny pipeline of its class.

A pipeline that `tests.tiny` learns to build is picked up by its class: nothing here has a list of them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ditmesh.cli.examples import EXAMPLES
from ditmesh.job.example import Example
from tests.tiny import TINY, call_kwargs, tiny_path

pytestmark = pytest.mark.slow

FLAGS = {"prompt": "--prompt", "height": "--height", "width": "--width", "num_inference_steps": "--steps"}


# diffusers 0.42.1 hands transformers 5.23 one row of a picture after the other to tokenize.
BROKEN = ("glm_image_edit",)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("tiny")


def pipeline_class(model: Path) -> str:
    return json.loads((model / "model_index.json").read_text())["_class_name"]


def kinds(pipeline: str) -> list[Example]:
    """The examples of a pipeline class, but one of those that differ in nothing but models, texts and numbers."""
    examples = [example for example in EXAMPLES.values() if example.pipeline == pipeline and not example.lora]
    examples = [example for example in examples if example.name not in BROKEN]
    return list({(example.images, bool(example.frames)): example for example in reversed(examples)}.values())


def arguments_of(call: Mapping[str, Any], example: Example, folder: Path) -> list[object]:
    """A tiny pipeline's own call as flags, with its images, or others, as files."""
    flags = [word for name, flag in FLAGS.items() if name in call for word in (flag, call[name])]
    if example.frames and "num_frames" in call:
        flags += ["--num-frames", call["num_frames"]]
    plain = (str, int, float, type(None), tuple)
    literals = {name: x for name, x in call.items() if name not in (*FLAGS, "num_frames") and isinstance(x, plain)}
    needed = example.images and example.images.needed and (example.images.image, example.images.mask)
    for flag, argument in zip(("--image-path", "--mask-image-path"), needed or (), strict=False):
        if argument:
            given = call.get(argument, Image.linear_gradient("L").resize((160, 96)))
            file = folder / f"{argument}.png"
            (given[0] if isinstance(given, list) else given).save(file)
            flags += [flag, file]
    return [*flags, "--extra-input-kwargs", repr(literals)]


@pytest.mark.filterwarnings("ignore")  # what a pipeline of diffusers warns of is its own affair
@pytest.mark.parametrize("name", TINY)
def test_examples_draw_with_the_tiny_pipelines_of_their_class(name, root, generate, tmp_path):
    model = tiny_path(name, root)
    examples = kinds(pipeline_class(model))
    if not examples:  # then the command says so
        code, _, err = generate("flux", "--model-path", model)
        assert code == 2
        assert "which no example calls" in err
    for example in examples:
        flags = arguments_of(call_kwargs(name), example, tmp_path)
        code, out, err = generate(example.name, "--model-path", model, "--warmup", 0, *flags)
        assert code == 0, err
        saved = [Path(line.removeprefix("saved ")) for line in out.splitlines() if line.startswith("saved ")]
        assert saved
        assert all(path.suffix == example.suffixes[0] and path.stat().st_size > 0 for path in saved)
        if example.layers:
            assert [path.stem[-2:] for path in saved] == [f"_{i}" for i in range(len(saved))]


@pytest.mark.parametrize(
    ("example", "words"),
    [
        ("wan2.1_i2v", ["wan2.1_i2v needs an image", "add --image-path FILE"]),
        ("flux_fill", ["flux_fill needs an image", "add --image-path FILE"]),
    ],
)
def test_an_example_without_its_image_is_refused_before_loading(example, words, generate, tmp_path):
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text("{}")
    index = {"_class_name": EXAMPLES[example].pipeline, "transformer": ["diffusers", "X"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    code, _, err = generate(example, "--model-path", tmp_path)
    assert code == 2
    assert [word for word in words if word not in err] == []
