"""`ditmesh plan`: its table, its JSON, its plot and its refusals; and the layout that other verbs let it choose."""

import json
from functools import partial
from pathlib import Path

import pytest

from ditmesh.cli import main
from ditmesh.cli.generate.options import Options
from ditmesh.cli.generate.verb import with_layout
from ditmesh.cli.plan import table
from ditmesh.cli.t2i.options import BatchOptions
from ditmesh.cli.t2i.verb import with_layout as with_batch_layout
from ditmesh.planner import auto
from ditmesh.planner.hardware import hardware
from ditmesh.planner.search import search
from ditmesh.runtime.world import World
from tests.planner.test_search import pretend


@pytest.fixture(autouse=True)
def without_dry_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What ranks do is made up; files of the user's are elsewhere."""
    for module in (table, auto):
        monkeypatch.setattr(module, "search", partial(search, runs=pretend))
    monkeypatch.setattr(auto, "as_found", pretend)
    monkeypatch.setattr(auto, "this_machine", lambda: hardware("L20"))
    for variable in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))


def plan(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as end:
        main(["plan", *arguments])
    out, err = capsys.readouterr()
    assert (end.value.code, err) == (code, "")
    return out


def test_the_table_tells_what_fits_what_does_not_and_what_to_run(weightless, capsys):
    out = plan(capsys, weightless, "--gpus", "8xL20", "--steps", "4", "--size", "512x1024")
    lines = out.splitlines()
    assert "height 512" in lines[0]
    assert "on 8 x L20" in lines[0]
    assert [line.split()[0] for line in lines[3:5]] == ["ulysses2.tp4", "cfg2.tp4"]
    assert any("OOM" in line and "GiB over" in line for line in lines)
    assert any(line.startswith("does not fit: ") and "--shard-weights" in line for line in lines)
    assert "note: " in out
    asked = "--parallel ulysses2.tp4 --height 512 --width 1024 --steps 4"
    assert lines[-1].split() == f"ditmesh generate flux --model-path {weightless} {asked}".split()


def test_json_and_plot_have_all_of_it(weightless, capsys, tmp_path):
    picture = tmp_path / "plots" / "plan.png"
    out = plan(capsys, weightless, "--gpus", "4xL20", "--json", "--plot", str(picture), "--throughput")
    told = json.loads(out)
    rows = {row["layout"]: row for row in told["layouts"]}
    assert told["recommended"] == told["layouts"][0]["layout"]
    assert told["command"].startswith("ditmesh t2i --model_name")
    assert rows["ulysses4"]["fits_with"] == ["--shard-weights"]
    assert set(rows["tp4"]["gib"]) == set(table.MEMORY)
    assert rows["tp4"]["seconds"]["total"] == pytest.approx(
        sum(rows["tp4"]["seconds"][part] for part in ("encode", "denoise", "decode"))
    )
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_nothing_that_fits_is_told_and_exits_with_1(weightless, capsys):
    out = plan(capsys, weightless, "--gpus", "1xA10", code=1)
    assert "no exact layout fits 1 x A10; single comes nearest and lacks" in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--gpus", "8"], "'8' is no machine; write how many of what, as in 8xL20."),
        (["--gpus", "8xL2O"], "there is no device 'L2O'; did you mean 'L20'?"),
        (["--gpus", "2xthis"], "this machine was not measured yet; run: ditmesh selftest"),
        (["--gpus", "2xL20", "--link", "pci4"], "there is no topology 'pci4'; did you mean 'pcie4'?"),
        (["--gpus", "2xL20", "--size", "big"], "--size big: write height and width in pixels"),
        (["--gpus", "2xL20", "--frames", "9"], "--frames is for videos"),
        (["--gpus", "2xL20", "--cache-hits", "0.5"], "--cache-hits is for a cache"),
        (["--gpus", "2xL20", "--cache", "--cache-hits", "1"], "--cache-hits 1 is no part of the steps"),
        (["--gpus", "2xL20", "--dtype", "fp4"], "--dtype fp4 is none of bf16, fp16, fp32."),
        (["--gpus", "2xL20", "--max", "0"], "--max 0 is no time"),
        (["--gpus", "2xL20", "--plot", "plan.pdf"], "--plot plan.pdf: the plot is a picture"),
        (["--gpus", "2xL20", "--hardware", "none.toml"], "hardware file none.toml: "),
        (["--gpus", "2xL20", "--parallel-text"], "--parallel-text: a FluxPipeline has no text encoder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_planned_is_refused(weightless, refused, arguments, told):
    [line] = refused(weightless, *arguments, verb="plan")
    assert told in line


def test_a_model_that_nobody_calls_is_refused(weightless, refused):
    index = Path(weightless) / "model_index.json"
    index.write_text(index.read_text().replace("FluxPipeline", "OddPipeline"))
    [line] = refused(weightless, "--gpus", "2xL20", verb="plan")
    assert "is a OddPipeline, and no example says how that is called" in line


def test_generate_and_t2i_take_the_layout_that_is_predicted_to_be_best(weightless, capsys, tmp_path, launched):
    options = Options("flux", model_path=weightless, parallel="auto", nproc=4)
    assert with_layout(options, World()).parallel == "tp4"
    assert capsys.readouterr().err.startswith("auto: tp4 fits (")
    # Each rank of a torchrun finds the same, and one of them says so.
    ranks = [World(rank, 4, rank, 4, launched=True) for rank in range(2)]
    assert [with_layout(Options("flux", model_path=weightless, parallel="auto"), rank).parallel for rank in ranks] == [
        "tp4",
        "tp4",
    ]
    assert len(capsys.readouterr().err.splitlines()) == 1
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\n")
    batch = BatchOptions(model_name=weightless, parallel="auto", num_gpus=8, prompts_file=prompts)
    assert with_batch_layout(batch, World()).parallel == "dp2.tp4"


def test_auto_says_what_it_does_not_know(weightless, refused, monkeypatch):
    [line] = refused("flux", "--model-path", weightless, "--parallel", "auto", "--nproc", "1")
    assert "auto: no exact layout fits 1 x L20; single comes nearest and lacks" in line
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CONFIG_HOME", "/nowhere")
    [line] = refused("flux", "--model-path", weightless, "--parallel", "auto", "--nproc", "2")
    assert "this machine was not measured yet; run: ditmesh selftest" in line


def test_t2i_reads_a_whole_layout_and_refuses_a_second_one(weightless, refused, monkeypatch):
    asked = ("--model_name", weightless, "--prompt", "a", "--parallel", "tp2")
    [line] = refused(*asked, "--ulysses_degree", "2", verb="t2i")
    assert "--parallel names all degrees, and --ulysses_degree one of them" in line
    [line] = refused(*asked, "--num_gpus", "4", verb="t2i")
    assert "layout tp2 needs 2 ranks and this job has 4" in line


def test_a_run_that_cannot_fit_is_told_with_numbers(weightless):
    from ditmesh.cli.generate.job import describe_job

    job = describe_job(Options("flux", model_path=weightless, parallel="tp2"), World())
    told = auto.too_large(job, hardware("L20"))
    assert told is not None
    assert "layout tp2 is predicted to need 59.2 GiB on a device, and L20 has 44.5 (weights 30.0, text enc" in told
    assert auto.too_large(job, hardware("H200")) is None
