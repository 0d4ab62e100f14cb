"""The command line before anything is loaded: help, the list, layouts from words, and every wrong input."""

import json
import os
import subprocess
import sys
import time

import pytest
import typer

from ditmesh import ParallelismConfig
from ditmesh.cli.examples import ABSENT, EXAMPLES, find_example, for_pipeline
from ditmesh.cli.generate.job import call_arguments, describe_job
from ditmesh.cli.generate.layout import choose_layout
from ditmesh.cli.generate.options import Options
from ditmesh.cli.ranks import failures
from ditmesh.runtime.world import World


def options(**asked) -> Options:
    return Options(example="flux", **asked)


@pytest.mark.parametrize("arguments", [["--help"], ["generate", "--help"]], ids=" ".join)
def test_help_needs_no_torch(arguments):
    script = (
        "import sys\nfrom ditmesh.cli import main\n"
        f"try: main({arguments})\nexcept SystemExit as end: assert not end.code\n"
        "sys.exit(str(sorted({'torch', 'diffusers', 'transformers', 'numpy', 'rich'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr.strip() == "[]"
    assert "Usage: ditmesh" in done.stdout


def test_help_answers_at_once():
    def seconds():
        before = time.perf_counter(), sum(os.times()[2:4])
        subprocess.run([sys.executable, "-m", "ditmesh", "--help"], capture_output=True, check=True)
        # On a busy machine the wall clock measures the others.
        return min(time.perf_counter() - before[0], sum(os.times()[2:4]) - before[1])

    assert min(seconds() for _ in range(5)) < 0.5


@pytest.mark.parametrize(
    "door",
    [["ditmesh", "generate", "list"], ["ditmesh.generate", "list"], ["ditmesh.generate", "generate", "list"]],
    ids=" ".join,
)
def test_every_door_lists_the_examples(door):
    environment = os.environ | {"COLUMNS": "80"}
    done = subprocess.run([sys.executable, "-m", *door], capture_output=True, text=True, env=environment, check=True)
    lines = done.stdout.splitlines()
    assert all(any(line.startswith(f"{name} ") for line in lines) for name in EXAMPLES)
    assert max(map(len, lines)) <= 80
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--parallel tp5", ["tp_size=5", "8 attention heads", "use 1, 2, 4 or 8"]),
        ("--parallel ulysses64", ["ulysses_size=64", "8 attention heads", "ring_size=64"]),
        ("--nproc 3 --parallel tp2", ["tp2 is for 2 ranks", "--nproc says 3", "leave --nproc out"]),
        ("--nproc 7 --parallel usp", ["'usp'", "7 is odd", "name the sizes"]),
        ("--nproc 4 --parallel usp_tp", ["'usp_tp'", "8 ranks", "not 4"]),
        ("--parallel ulyses4", ["no axis 'ulyses'", "did you mean 'ulysses'?"]),
        ("--parallel ulyses --nproc 2", ["'ulyses'", "did you mean 'ulysses'?"]),
        ("--parallel dp2", ["dp_size=2", "draws one result", "ditmesh t2i"]),
        ("--num-pipeline-patch 2", ["num_pipeline_patch=2", "pp_size is 1"]),
        ("--parallel tp2 --pipeline-warmup-steps 2", ["warmup_steps=2", "pp_size is 1"]),
        ("--shard-weights", ["in layout single there are none", "ulysses_size=2"]),
        ("--nproc 2", ["2 ranks", "no --parallel", "--parallel ulysses2"]),
        ("--num-frames 9", ["--num-frames", "FluxPipeline makes pictures"]),
        ("--fps 9", ["--fps", "FluxPipeline makes pictures"]),
        ("--verify", ["--verify", "this is one process", "add --parallel"]),
        ("--warmup 0 --warmup-steps 2", ["--warmup-steps", "add --warmup 1"]),
        ("--warmup 0 --warmup-seed 2", ["--warmup-seed", "add --warmup 1"]),
        ("--warmup 0 --warmup-prompt dog", ["--warmup-prompt", "add --warmup 1"]),
        ("--skip-neg", ["--skip-neg", "no negative prompt"]),
        ("--skip-neg --negative-prompt x", ["--skip-neg", "use one of them"]),
        ("--parallel-text", ["--parallel-text", "add --parallel"]),
        ("--parallel tp2 --parallel-text", ["FluxPipeline has no text encoder", "leave it out"]),
        ("--parallel tp2 --parallel-controlnet", ["FluxPipeline has no ControlNet", "leave it out"]),
        ("--parallel ulysses --nproc 1 --parallel-vae", ["--parallel-vae", "add --parallel"]),
        ("--image-path cat.png", ["--image-path", "flux takes no such image"]),
        ("--mask-image-path cat.png", ["--mask-image-path", "flux takes no such image"]),
        ("--input-height 8", ["--input-height", "add --image-path"]),
        ("--controlnet-path x/y", ["--controlnet-path", "FluxPipeline has no ControlNet"]),
        ("--transformer-path weightless", ["--transformer-path weightless", "no class of diffusers"]),
        ("--transformer-path /nowhere", ["no folder /nowhere", "--transformer-path"]),
        ("--lora-path /nowhere", ["no folder /nowhere", "--lora-path"]),
        ("--lora-path weightless", ["--lora-path weightless", "none; check the folder"]),
        ("--lora-path weightless/model_index.json", ["no .safetensors file"]),
        ("--lora-weight-name a.safetensors", ["--lora-weight-name", "add --lora-path"]),
        ("--disable-fuse-lora", ["--disable-fuse-lora", "add --lora-path"]),
        ("--attn flush", ["--attn", "no attention backend 'flush'", "native"]),
        ("--cpu-offload", ["--cpu-offload", "no GPU can be seen"]),
        ("--group-offload leaf_level", ["--group-offload", "no GPU can be seen"]),
        ("--group-offload leaf", ["--group-offload leaf", "block_level, leaf_level"]),
        ("--group-offload leaf_level --cpu-offload", ["--cpu-offload and --group-offload", "name one of them"]),
        ("--sequential-offload", ["--sequential-offload", "no GPU can be seen"]),
        ("--generator-device tpu", ["'tpu'", "cpu or cuda"]),
        ("--extra-input-kwargs {a", ["'{a'", "no Python dict"]),
        ("--extra-input-kwargs 3", ["'3'", "no dict"]),
        ("--extra-input-kwargs {'generator':3}", ["generator", "leave it out"]),
        ("--save-path picture.mp4", ["picture.mp4", "a picture", ".png"]),
        ("--save-path .", ["--save-path", "end the name in .png"]),
        ("--save-path weightless/model_index.json/a.png", ["model_index.json is a file, not a folder"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_input_is_one_line_and_nothing_is_loaded(refused, weightless, arguments, words):
    (line,) = refused("flux", "--model-path", weightless, *arguments.split())
    assert line.startswith("Error: ")
    assert [word for word in words if word not in line] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("flax", ["no example 'flax'", "did you mean 'flux'?"]),
        ("zzz", ["no example 'zzz'", "demo, flux, flux2"]),
        ("boogu_image_edit", ["no example 'boogu_image_edit': diffusers has no pipeline for it"]),
        ("flux_nunchaku", ["nunchaku", "use flux"]),
        ("flux --model-path /nowhere/at/all", ["no folder /nowhere/at/all", "save_pretrained"]),
        ("flux --model-path .", [". has no model_index.json", "save_pretrained"]),
    ],
    ids=["a typo", "no such example", "no pipeline", "nunchaku", "no such folder", "no model"],
)
def test_what_is_not_there_is_named(refused, arguments, words):
    (line,) = refused(*arguments.split())
    assert [word for word in words if word not in line] == []


def test_what_is_nested_too_deep_to_be_read_is_one_line(refused, tmp_path, weightless):
    (tmp_path / "deep.yaml").write_text("a: " + "[" * 3000)
    (line,) = refused("flux", "--model-path", weightless, "--config", "deep.yaml")
    assert line.startswith("Error: --config deep.yaml: deep.yaml is no YAML: maximum recursion depth")
    (line,) = refused("flux", "--model-path", weightless, "--extra-input-kwargs", "{'sigmas': 1" + "+1" * 9000)
    assert "is no Python dict" in line
    index = tmp_path / "weightless" / "model_index.json"
    for text, why in (("[" * 9000, "is no JSON"), ("[1]", "holds no names and values")):
        index.write_text(text)
        assert why in refused("flux", "--model-path", weightless)[0]


def test_a_file_that_cannot_be_had_is_one_line(capsys, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(typer.Exit), failures(World()):
        (tmp_path / "file" / "a.png").write_text("")
    assert capsys.readouterr().err.startswith(f"Error: cannot use {tmp_path}/file/a.png: Not a directory; see that")
    with pytest.raises(ValueError, match="cannot use"), failures(World(size=2)):  # the launcher tells
        (tmp_path / "file" / "a.png").write_text("")


def test_a_model_that_nobody_can_fetch_is_one_line(refused, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (line,) = refused("flux", "--model-path", "no-one/has-this")
    assert "no-one/has-this is no folder here and not in the hub's cache" in line


def test_a_word_without_a_number_of_ranks_asks_for_it(refused, weightless, monkeypatch):
    import torch

    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 0)
    (line,) = refused("flux", "--model-path", weightless, "--parallel", "ulysses")
    assert "add --nproc 2" in line
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 4)
    assert str(choose_layout("ulysses_tp", None, World())) == "ulysses2.tp2"


def test_a_flag_that_does_not_exist_is_unknown(refused):
    assert "No such option: --quantise" in refused("flux", "--quantise")[-1]


def test_one_rank_of_a_machine_speaks(refused, weightless, launched, monkeypatch):
    for rank, local_rank, lines in ((0, 0, 1), (1, 1, 0), (2, 0, 1)):
        launched(rank, 4)
        monkeypatch.setenv("LOCAL_RANK", str(local_rank))
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
        assert len(refused("flux", "--model-path", weightless, "--parallel", "tp2")) == lines


def test_whoever_has_a_stray_rank_speaks(refused, weightless, launched, monkeypatch):
    launched(1, 2)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    for model in (weightless, "/nowhere"):
        (line,) = refused("flux", "--model-path", model, "--parallel", "tp3")
        assert line.startswith("Error: ")
        assert line.endswith("(This is rank 1 of 2, as RANK says; unset RANK if nothing launched it as one.)")


def test_a_kernel_that_the_layout_cannot_use_is_refused_by_the_ranks(refused, weightless, launched):
    launched(0, 2)
    (line,) = refused("flux", "--model-path", weightless, "--parallel", "ring2", "--attn", "sage")
    assert [word for word in ("--attn", "ring_size=2", "log-sum-exp", "use one of native") if word not in line] == []


def test_an_interrupt_while_importing_is_one_line():
    script = (
        "import os, signal, sys\nfrom ditmesh.cli import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        "def strike(event, given): event == 'import' and given[0] == 'diffusers' and os.kill(os.getpid(), 2)\n"
        "sys.addaudithook(strike)\nsys.argv[1:] = ['generate', 'demo']\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "stopped by SIGINT\n")


@pytest.mark.parametrize(
    ("word", "ranks", "layout"),
    [
        ("tp", 3, "tp3"),
        ("usp", 4, "ring2.ulysses2"),
        ("ulysses_tp", 4, "ulysses2.tp2"),
        ("usp_tp", 8, "ring2.ulysses2.tp2"),
    ],
)
def test_a_word_shares_out_all_ranks(word, ranks, layout):
    launched = World(size=ranks, ranks_here=ranks, launched=True)
    assert choose_layout(word, None, launched) == choose_layout(word, ranks, World()) == ParallelismConfig.parse(layout)


def test_a_launcher_and_its_ranks_make_the_same_job(weightless):
    asked = options(model_path=weightless, parallel="usp", nproc=4)
    rank = World.read({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"})
    assert rank == World(rank=3, size=4, local_rank=1, ranks_here=2, launched=True)
    assert describe_job(asked, World()) == describe_job(asked, rank)


def test_what_the_user_asks_goes_before_the_example(weightless):
    asked = options(model_path=weightless, prompt="a dog", steps=3, extra_input_kwargs="{'height': 64}", height=32)
    job = describe_job(asked, World())
    assert job.call == {"prompt": "a dog", "height": 64, "width": 1024, "num_inference_steps": 3}
    assert job.asked == {"prompt", "num_inference_steps", "height"}


def test_a_variable_names_a_local_copy(weightless, monkeypatch):
    monkeypatch.setenv("FLUX_DIR", weightless)
    assert describe_job(options(), World()).model == weightless


def test_an_example_fits_the_pipeline_it_is_given():
    example = for_pipeline(find_example("demo"), "WanPipeline")
    assert (example.height, example.steps, example.frames, example.suffixes) == (128, 28, 49, (".mp4",))
    assert "guidance_scale" in example.call
    assert "true_cfg_scale" not in example.call
    with pytest.raises(ValueError, match="no example calls; use one of FluxPipeline, Flux2Pipeline"):
        for_pipeline(find_example("demo"), "StableDiffusionPipeline")


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_calls_its_pipeline_by_arguments_it_has(name):
    import inspect

    from ditmesh.job.classes import diffusers_class

    example = EXAMPLES[name]
    takes = inspect.signature(diffusers_class(example.pipeline).__call__).parameters
    images = example.images and [argument for argument in (example.images.image, example.images.mask) if argument]
    call, _ = call_arguments(Options(name), example)
    assert set(call) | set(images or []) <= set(takes)


def test_no_pipeline_has_appeared_for_what_is_absent():
    import diffusers

    assert [name for name in dir(diffusers) if "Boogu" in name] == []
    assert not set(ABSENT) & set(EXAMPLES)


def test_every_sharable_component_is_named_by_its_flag(weightless, tmp_path):
    index = json.loads((tmp_path / "weightless" / "model_index.json").read_text())
    for name, kind in (
        ("text_encoder", "CLIPTextModel"),
        ("text_encoder_2", "T5EncoderModel"),
        ("vision_language_encoder", "GlmImageForConditionalGeneration"),
    ):
        index[name] = ["transformers", kind]
    (tmp_path / "weightless" / "model_index.json").write_text(json.dumps(index))
    asked = options(model_path=weightless, parallel="tp2", parallel_text=True, parallel_vae=True)
    shared = describe_job(asked, World()).layout.extra_parallel_modules
    assert set(shared) == {"text_encoder", "text_encoder_2", "vision_language_encoder", "vae"}


def test_the_frame_rate_reaches_a_pipeline_that_has_to_know_it():
    example = EXAMPLES["ltx2_t2v"]
    assert call_arguments(Options("ltx2_t2v", fps=12), example)[0]["frame_rate"] == 12
    assert call_arguments(Options("ltx2_t2v"), example)[0]["frame_rate"] == 24
