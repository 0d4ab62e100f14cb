"""The same question gets the same answer from every verb, and none loads a weight before it answers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import ditmesh.cli.plan.job as plan
import ditmesh.cli.serve.job as serve
from ditmesh.cli.examples import EXAMPLES
from ditmesh.cli.generate.job import describe_job
from ditmesh.cli.generate.options import Options
from ditmesh.cli.t2i.job import describe_batch
from ditmesh.cli.t2i.options import BatchOptions
from ditmesh.job.description import Flags
from ditmesh.runtime.world import World
from tests.cli.conftest import save_index
from tests.tiny import tiny_path

pytestmark = pytest.mark.slow
DEMO = Path(serve.__file__).parents[2] / "demo_model"


@pytest.fixture
def ask(refused):
    """The refusal of each verb, asked in its own words."""

    def run(model: str, generate: str, t2i: str) -> list[str]:
        name = "flux2" if "flux2" in model else "flux"
        told = refused(name, "--model-path", model, *generate.split())
        return told + refused("--model_name", model, "--prompt", "x", *t2i.split(), verb="t2i")

    return run


BIG = "1180591620717411303424"  # 2**70


@pytest.mark.parametrize(
    ("generate", "t2i", "words"),
    [
        ("--height 7", "--height 7", "height: 7 pixels are fewer than the 16 that become one token"),
        ("--width 15", "--width 15", "use 16 or more"),
        (f"--seed {BIG}", f"--seed {BIG}", f"seed: input should be less than or equal to {2**63 - 1} ({BIG})"),
        (
            "--extra-input-kwargs {'guidance_scale':-1}",
            "--guidance_scale -1",
            "guidance_scale: input should be greater than or equal to 0 (-1",
        ),
        (
            "--extra-input-kwargs {'true_cfg_scale':1e999}",
            "--true_cfg_scale inf",
            "true_cfg_scale: input should be a finite number (inf)",
        ),
        ("--attn flush", "--attention_backend flush", "there is no attention backend 'flush'; use one of"),
        ("--cache --steps 4", "--cache_type cache_dit --num_inference_steps 4", "so that none would be cached; "),
        ("--cpu-offload", "--optimize cpu_offload", "no GPU can be seen"),
        ("--group-offload block_level", "--optimize group_offload", "no GPU can be seen"),
        ("--sequential-offload", "--optimize sequential_cpu_offload", "no GPU can be seen"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_one_verb_refuses_the_other_does(ask, flux, generate, t2i, words):
    for line in ask(flux, generate, t2i):
        assert words in line


def test_arguments_and_branches_that_a_pipeline_does_not_have_are_refused_by_both(ask, tmp_path, weightless, launched):
    config = {"num_attention_heads": 8, "attention_head_dim": 16, "num_layers": 0, "num_single_layers": 0}
    model = save_index(tmp_path / "flux2", "Flux2Pipeline", "Flux2Transformer2DModel", config)
    for line in ask(model, "--extra-input-kwargs {'true_cfg_scale':2}", "--true_cfg_scale 2"):
        assert "Flux2Pipeline takes no true_cfg_scale; " in line
    for line in ask(model, "--cache", "--optimize cache_dit"):
        assert "Flux2Transformer2DModel has no module named 'transformer_blocks.*'" in line
    launched(0, 2)
    for line in ask(weightless, "--parallel cfg2", "--use_cfg_parallel"):
        assert "a FluxPipeline has a second one only with a negative_prompt and a true_cfg_scale above 1" in line


def test_a_model_whose_blocks_are_not_repeated_is_not_compiled(refused, tmp_path):
    model = save_index(tmp_path / "sd3", "StableDiffusion3Pipeline", "SD3Transformer2DModel", {})
    (line,) = refused("--model_name", model, "--prompt", "x", "--enable_compile", verb="t2i")
    assert "compile: diffusers does not say which blocks SD3Transformer2DModel repeats" in line


def test_a_cache_has_the_same_defaults_in_both(flux):
    ours = describe_job(Options("flux", cache=True, model_path=flux), World())
    theirs = describe_batch(
        BatchOptions(model_name="FLUX.1-dev", cache_type="cache_dit", prompt="x"), World(), {"FLUX_DIR": flux}
    ).job
    assert ours.cache == theirs.cache is not None
    assert (ours.seed, ours.facts, ours.call | {"prompt": "x"}) == (theirs.seed, theirs.facts, theirs.call)
    assert theirs.flags != Flags()


def test_generate_writes_its_facts_into_its_picture(generate, flux):
    size = ["--height", 48, "--width", 48, "--steps", 1, "--warmup", 0]
    code, *_ = generate("flux", "--model-path", flux, "--prompt", "a dög", "--seed", 7, *size, "--save-path", "a.png")
    assert code == 0
    with Image.open("a.png") as picture:
        told = picture.text
    assert told == {
        "prompt": "a dög",
        "seed": "7",
        "settings": '{"height": 48, "width": 48, "num_inference_steps": 1}',
        "model": Path(flux).name,
        "layout": "single",
        "software": "ditmesh",
    }


def test_a_dry_run_checks_all_and_loads_nothing(generate, refused, weightless):
    code, out, _ = generate("flux", "--model-path", weightless, "--parallel", "ulysses2", "--dry-run")
    assert code == 0
    assert "ulysses2" in out
    assert out.endswith("nothing was loaded\n")
    (line,) = refused("--model-name", weightless, "--prompt", "x", "--dry-run", "--cache-type", "pab", verb="t2i")
    assert "use cache_dit" in line


def test_a_short_flag_asks_for_help_and_shells_complete_verbs_and_flags(capsys):
    from ditmesh.cli import main

    for verb in ([], ["generate"], ["t2i"], ["bench"], ["models"]):
        with pytest.raises(SystemExit) as end:
            main([*verb, "-h"])
        assert not end.value.code
        assert capsys.readouterr().out.startswith("Usage: ditmesh")
    asked = {"_DITMESH_COMPLETE": "complete_bash", "COMP_WORDS": "ditmesh generate --parallel-t", "COMP_CWORD": "2"}
    command = [sys.executable, "-m", "ditmesh"]
    done = subprocess.run(command, env=os.environ | asked, capture_output=True, text=True)
    assert done.stdout.split() == ["--parallel-type", "--parallel-text", "--parallel-text-encoder"]


def test_bench_says_what_to_install_before_anything_else(monkeypatch, capsys):
    from ditmesh.cli import main
    from ditmesh.cli.bench import verb

    monkeypatch.setattr(verb, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as end:
        main(["bench", "nothing", "--cache-sweep"])
    assert end.value.code == 2
    assert "run: pip install matplotlib" in capsys.readouterr().err


@pytest.mark.parametrize(("example", "size"), [("flux", 1024), ("demo", 128)])
def test_a_folder_is_called_alike_by_every_verb(example, size, tmp_path):
    folder = DEMO if example == "demo" else tiny_path(example, tmp_path)
    served, _ = serve.find_model(str(folder))
    planned, _ = plan.find_model(str(folder))
    drawn = describe_batch(BatchOptions(model_name=str(folder), prompt="x"), World(), {}).job.example
    for one in (served, planned, drawn):
        assert (one.height, one.steps, one.call) == (size, EXAMPLES[example].steps, EXAMPLES[example].call)
