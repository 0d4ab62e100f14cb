"""--quantize and --quantized-text: what they quantize, what they refuse, and how far --verify finds it from what."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from ditmesh.cli.generate.job import describe_job
from ditmesh.cli.generate.options import Options
from ditmesh.cli.t2i.job import describe_batch
from ditmesh.cli.t2i.options import BatchOptions
from ditmesh.job.draw import draw
from ditmesh.job.load import load
from ditmesh.job.quantization import KINDS
from ditmesh.runtime.world import World
from ditmesh.upstream.quantized import take_apart
from tests.upstream.lora import save_lora


def kinds(model: nn.Module) -> set[str]:
    return {type(weight).__name__ for name, weight in model.named_parameters() if name.endswith(".weight")}


def test_each_kind_quantizes_what_is_asked_and_draws_nearly_the_same(flux, tmp_path):
    def job(**asked):
        small = {"height": 48, "width": 80, "steps": 2, "warmup": 0}
        return describe_job(Options("flux", model_path=flux, **small, **asked), World())

    def drawn(one):
        pipe = load(one, torch.float32)
        return draw(pipe, one, one.call, one.seed).films, pipe

    plain, _ = drawn(job())
    for kind in KINDS:
        films, pipe = drawn(job(quantize=kind))
        assert 0 < np.abs(films - plain).max() < 0.5
        assert len(kinds(pipe.transformer)) == 2  # norms are plain
        assert kinds(pipe.text_encoder_2) == {"Parameter"}
    _, pipe = drawn(job(quantize="int8", quantized_text=True, lora_path=str(save_lora(flux, tmp_path))))
    assert kinds(pipe.text_encoder_2) == kinds(pipe.transformer) == {"Int8Tensor", "Parameter"}
    kept = [name for name, x in pipe.text_encoder_2.named_parameters() if name.endswith("wo.weight") and take_apart(x)]
    assert kept == []  # T5 asks what numbers these are

    batch = BatchOptions(model_name=flux, prompt="a cat", quantize="nf4", output_dir=tmp_path / "out")
    described = describe_batch(batch, World(), {}).job.quantized
    assert described is not None
    assert described.tag == "nf4"


def test_linears_of_adapters_stay_plain(flux, tmp_path):
    lora = {"lora_path": str(save_lora(flux, tmp_path)), "disable_fuse_lora": True}
    pipe = load(describe_job(Options("flux", model_path=flux, quantize="int8", **lora), World()), torch.float32)
    weights = dict(pipe.transformer.named_parameters())
    adapted = [name for name in weights if ".base_layer.weight" in name]
    assert adapted
    assert all(take_apart(weights[name]) is not None for name in adapted)
    assert all(take_apart(x) is None for name, x in weights.items() if ".lora_" in name)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--quantize", "int9"], ["there is no such quantization", "int8"]),
        (["--quantized-text"], ["which weights are quantized, not how; add --quantize int8"]),
    ],
    ids=" ".join,
)
def test_what_cannot_be_quantized_is_refused(refused, weightless, flags, said):
    (line,) = refused("flux", "--model-path", weightless, *flags)
    assert all(text in line for text in said)


def test_a_missing_package_is_named_with_what_installs_it(refused, weightless, monkeypatch):
    monkeypatch.setattr("ditmesh.job.quantization.find_spec", lambda name: None)
    (line,) = refused("flux", "--model-path", weightless, "--quantize", "nf4")
    assert "needs the package bitsandbytes, which is not installed; run: pip install 'ditmesh[quantize]'" in line


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "more"), [("tp2", []), ("ulysses2", ["--shard-weights"])])
def test_the_demo_says_how_far_from_one_process_and_from_plain_weights(tmp_path, layout, more):
    flags = ["demo", "--steps", "4", "--warmup", "0", "--parallel", layout, "--quantize", "int8", "--verify", *more]
    done = subprocess.run(
        [sys.executable, "-m", "ditmesh", "generate", *flags], cwd=tmp_path, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    exact, lost = [line for line in done.stdout.splitlines() if line.startswith("verify: ")]
    far = [float(re.search(r"max \|difference\| (\S+)", line)[1]) for line in (exact, lost)]  # type: ignore[index]
    assert far[0] <= 1e-5 < far[1] < 0.1
    assert f"({layout} with int8 against one process)" in exact
    assert "(int8 against weights that are not quantized)" in lost
    assert (tmp_path / f"demo.128x128.{layout}.int8.png").exists()
    assert not [line for line in done.stderr.splitlines() if "torchao" in line or "bitsandbytes" in line]
