"""`ditmesh t2i` before anything is loaded: degrees from flags and variables, groups of ranks, and every wrong usage."""

from pathlib import Path

import pytest

from ditmesh import ParallelismConfig
from ditmesh.cli import main
from ditmesh.cli.t2i.degrees import choose_degrees, is_on
from ditmesh.config import AXES, describe_groups, rank_groups, replicas
from ditmesh.job.weights import LoraWeights
from tests.batch.factory import parse


@pytest.fixture
def folder(tmp_path, monkeypatch, flux):
    """An empty folder with prompt files in it, and the model where the short names look for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLUX_DIR", flux)
    Path("prompts.jsonl").write_text('"a dog"')
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        ("--num_gpus 4 --ulysses_degree 3", {}, ["3 (--ulysses_degree)", "need 3 ranks", "there are to be 4"]),
        ("--num_gpus 4", {"DG_XDIT_DATA_PARALLEL_DEGREE": "2"}, ["2 (--data_parallel_degree) need 2 ranks"]),
        ("", {"DG_XDIT_ULYSSES_DEGREE": "two"}, ["DG_XDIT_ULYSSES_DEGREE=two is no degree"]),
        ("", {"DG_XDIT_RING_DEGREE": "0"}, ["DG_XDIT_RING_DEGREE=0 is no degree"]),
        ("", {"DG_XDIT_RING_DEGREE": ""}, ["DG_XDIT_RING_DEGREE= is no degree"]),
        ("", {"DG_XDIT_USE_CFG_PARALLEL": "2"}, ["neither on nor off"]),
        ("", {"DG_XDIT_ULYSES_DEGREE": "2"}, ["did you mean 'DG_XDIT_ULYSSES_DEGREE'?"]),
        ("", {"DG_DEBUG": "perhaps"}, ["DG_DEBUG=perhaps is neither on nor off"]),
        ("--ulysses_degree 64", {}, ["ulysses_size=64", "8 attention heads", "ring_size=64"]),
        ("--num_pipeline_patch 2", {}, ["num_pipeline_patch=2", "pp_size is 1; set pp_size=2"]),
        ("--data_parallel_degree 2 --shard-weights", {}, ["in layout dp2 there are none", "ulysses_size=2"]),
        ("--pipefusion_parallel_degree 2 --num_pipeline_patch 2 --warmup_steps 0", {}, ["warmup_steps must be"]),
        ("--backend openai", {}, ["--backend openai", "use one of xdit, diffusers"]),
        ("--backend diffusers --ring_degree 2", {}, ["splits no picture", "--backend xdit"]),
        ("--prompt x --prompts_file a.jsonl", {}, ["use one of them"]),
        ("--prompts_file none.jsonl", {}, ["none.jsonl cannot be read: No such file"]),
        ("--optimize vae_tilling", {}, ["no optimization 'vae_tilling'", "did you mean 'vae_tiling'?"]),
        ("--optimize tf32,deep_cache", {}, ["deep_cache: it is for U-Nets", "leave it out"]),
        ("--cache_type pab", {}, ["pab_cache", "use cache_dit"]),
        ("--optimize flash --attention_backend sage", {}, ["flash and sage are both attention kernels"]),
        ("--optimize tf32", {}, ["tf32 is for GPUs"]),
        ("--device cuda", {}, ["--device cuda is for GPUs"]),
        ("--torch_dtype int8", {}, ["int8 is none of bfloat16, float16, float32"]),
        ("--nnodes 2", {}, ["--nnodes is no more: use --engine ray", "torchrun --nnodes around"]),
        ("--node-rank 1", {}, ["--node_rank is no more"]),
        ("--rdzv_endpoint here:29500", {}, ["--rdzv_endpoint is no more"]),
        ("--engine slurm", {}, ["--engine slurm", "use one of local, ray"]),
        ("--replicas 2..4", {}, ["--replicas is for a cluster; add --engine ray"]),
        ("--ray-address auto", {}, ["--ray-address is for a cluster"]),
        ("--engine ray --replicas 4..2", {}, ["--replicas 4..2 is no range; write it like 2..8"]),
        ("--engine ray --replicas 2 --data-parallel-degree 2", {}, ["--replicas 2 and a layout of 2 replicas"]),
        ("--parallel ulysses2 --ring_degree 2", {}, ["--parallel names all degrees, and --ring_degree one of them"]),
        ("--parallel ulyses2", {}, ["did you mean", "ulysses"]),
        ("--extra-input-kwargs {'sigma':3}", {}, ["FluxPipeline takes no sigma; did you mean sigmas?"]),
        ("--extra_input_kwargs {'prompt':'x'}", {}, ["prompt is of each picture; use --prompt"]),
        ("--lora-weight-name a", {}, ["--lora-weight-name is for LoRA weights, and there are none"]),
        ("--log_dir prompts.jsonl/a", {}, ["--log_dir", "prompts.jsonl is a file, not a folder"]),
        ("--data_parallel_degree 5000 --device cpu", {}, ["starts 5000 ranks", "--oversubscribe"]),
        ("--output_dir prompts.jsonl/a", {}, ["prompts.jsonl is a file, not a folder"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_usage_is_one_line_and_nothing_is_loaded(
    folder, forked, monkeypatch, capsys, arguments, environment, words
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as end:
        main(["t2i", "--model_name", "FLUX.1-dev", *arguments.split()])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert [word for word in words if word not in line] == []
    assert not Path("output").exists()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("FLUX.1-devv", ["no such folder or short name", "did you mean 'FLUX.1-dev'?", "organisation"]),
        (".", [". has no model_index.json"]),
    ],
)
def test_a_model_that_is_not_there_is_named(folder, capsys, model, words):
    with pytest.raises(SystemExit):
        main(["t2i", "--model_name", model])
    (line,) = capsys.readouterr().err.splitlines()
    assert [word for word in words if word not in line] == []


def test_a_flag_goes_before_its_variable_and_what_is_left_over_becomes_replicas():
    environment = {"DG_XDIT_ULYSSES_DEGREE": "4", "DG_XDIT_USE_CFG_PARALLEL": "On"}
    assert str(choose_degrees({"ulysses_size": 2}, environment, 8, {})) == "dp2.cfg2.ulysses2"
    assert str(choose_degrees({"cfg_size": 1}, environment, None, {})) == "ulysses4"
    assert is_on({"DG_DEBUG": "YES"}, "DG_DEBUG")
    assert not is_on({}, "DG_DEBUG")


def test_a_layout_in_a_word_is_that_of_its_degrees(folder):
    call = ["--model_name", "FLUX.1-dev", "--prompt", "x"]
    for arguments, layout in (
        (["--parallel", "ulysses2.tp2", "--num-gpus", "4"], "ulysses2.tp2"),
        (["--parallel", "dp3"], "dp3"),
        (["--parallel", "usp", "--num-gpus", "4"], "ring2.ulysses2"),
        (["--parallel", "single"], "single"),
        (["--parallel", "dp2", "--backend", "diffusers"], "dp2"),
    ):
        batch, _ = parse([*call, *arguments], {})
        assert str(batch.job.layout) == layout
    batch, _ = parse([*call, "--extra-input-kwargs", "{'max_sequence_length': 64}", "--guidance_scale", "2"], {})
    assert batch.job.call["max_sequence_length"] == 64
    assert batch.job.asked == {"max_sequence_length", "guidance_scale"}
    Path("mine.safetensors").touch()
    batch, _ = parse([*call, "--lora_path", "mine.safetensors", "--disable_fuse_lora"], {})
    assert batch.job.lora == LoraWeights(Path("mine.safetensors"), fuse=False)


def test_groups_are_those_of_the_mesh():
    import torch

    layout = ParallelismConfig.parse("dp2.cfg2.ring3.tp2")
    mesh = torch.arange(layout.world_size).reshape(tuple(layout.sizes.values()))
    for axis in AXES:
        rows = mesh.movedim(list(AXES).index(axis), -1).reshape(-1, layout.sizes[axis]).tolist()
        assert rank_groups(layout, axis) == rows
    assert [list(ranks) for ranks in replicas(layout)] == mesh.reshape(2, -1).tolist()
    assert describe_groups(ParallelismConfig.parse("dp2.cfg2.ulysses2")) == [
        "replica 0: ranks 0-3; replica 1: ranks 4-7",
        "guidance, a branch each (cfg2): ranks 0, 2; ranks 1, 3; ranks 4, 6; ranks 5, 7",
        "Ulysses, heads exchanged (ulysses2): ranks 0-1; ranks 2-3; ranks 4-5; ranks 6-7",
    ]


def test_degrees_that_the_other_backend_does_not_use_are_named(folder):
    arguments = ["--model_name", "FLUX.1-dev", "--prompt", "x", "--num_gpus", "2", "--backend", "diffusers"]
    batch, _ = parse(arguments, {"DG_XDIT_RING_DEGREE": "2"})
    assert str(batch.job.layout) == "dp2"
    assert [note for note in batch.notes if "DG_XDIT_RING_DEGREE is not used" in note]
