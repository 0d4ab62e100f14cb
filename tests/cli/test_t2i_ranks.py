"""`ditmesh t2i`: the same pictures on any layout, whatever is in the file and whoever is killed."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ditmesh
from tests.batch.factory import SMALL, manifest, parse, pictures, ranks_of, rows_file, wait_for, whole_records
from tests.batch.forked import FAIL
from tests.tiny import tiny_path

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[2] / "docs" / "batch.md").read_text("utf-8")
DEMO = Path(ditmesh.__file__).parent / "demo_model"
PROMPTS = ["a red dog", "a cat, asleep", "two birds on a wire"]


def commands() -> list[tuple[dict[str, str], list[str]]]:
    """Every command of the page, with what is exported before it."""
    found = []
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL):
        lines = block.splitlines()
        exported = dict(line.removeprefix("export ").split("=", 1) for line in lines if line.startswith("export "))
        (command,) = [line for line in lines if line.startswith("ditmesh t2i ")]
        found.append((exported, shlex.split(command)[2:]))
    return found


def name_of(command) -> str:
    exported, arguments = command
    return " ".join([*(name.removeprefix("DG_XDIT_") for name in exported), *arguments[-2:]])


@pytest.fixture
def folder(tmp_path, monkeypatch, flux):
    """An empty folder with prompt files in it, and the model where the short names look for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLUX_DIR", flux)
    for name in ("prompts.jsonl", "large_prompts.jsonl"):
        Path(name).write_text("\n".join(json.dumps(prompt) for prompt in PROMPTS))
    return tmp_path


def without_layout(arguments: list[str]) -> list[str]:
    """A command without what spreads it."""
    left, skip = [], False
    for argument in arguments:
        if not skip and argument not in LAYOUT:
            left.append(argument)
        skip = not skip and argument in LAYOUT
    return left


LAYOUT = ("--num_gpus", "--batch_size", "--backend", "--ulysses_degree")
ALONE: dict[tuple[str, ...], dict[str, np.ndarray]] = {}  # what one process draws, by its command


@pytest.mark.parametrize("command", commands(), ids=name_of)
def test_every_command_of_the_page_draws_what_one_process_draws(t2i, folder, monkeypatch, command):
    environment, arguments = command
    monkeypatch.setenv("FLUX_DIR", str(DEMO))
    batch, _ = parse(arguments, environment)
    if batch.job.layout.world_size > 8:
        return  # the layout is right; so many ranks are for a larger machine
    alone = tuple(without_layout(arguments))
    if alone not in ALONE:
        assert t2i(*alone, *SMALL, "--output_dir", "alone")[0] == 0
        ALONE[alone] = pictures("alone")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert t2i(*arguments, *SMALL, "--output_dir", "out")[0] == 0
    ours, reference = pictures("out"), ALONE[alone]
    assert list(ours) == list(reference)
    assert len(ours) == (3 if batch.prompt is None else 1)
    assert all(abs(ours[name] - reference[name]).max() <= 1 for name in ours)
    assert [record["file"] for record in manifest("out")] == list(ours)


def test_the_picture_does_not_depend_on_batches_and_is_that_of_generate(t2i, generate, folder):
    Path("many.jsonl").write_text(
        '{"prompt": "a red dog", "num_images_per_prompt": 2}\n"a cat"\n{"prompt": "a bird", "negative_prompt": "sky", '
        '"true_cfg_scale": 2}\n{"prompt": "a fish", "seed": 5, "height": 48}\n"a cow"\n'
    )
    call = ["--model_name", "FLUX.1-dev", "--prompts_file", "many.jsonl", "--seed", "3", *SMALL, "--output_dir"]
    assert t2i(*call, "one")[0] == 0
    assert t2i(*call, "four", "--batch_size", "4")[0] == 0
    one, four = pictures("one"), pictures("four")
    assert list(one) == [f"00000{i}.png" for i in ("0_00", "0_01", "1", "2", "3", "4")]
    assert one["000003.png"].shape == (48, 48, 3)
    assert all(abs(one[name] - four[name]).max() <= 1 for name in one)
    assert len({picture.tobytes() for picture in one.values()}) == 6
    for name, record in zip(one, manifest("one"), strict=True):
        if record["index"] in (1, 3):
            size = ["--height", record["settings"]["height"], "--width", 48]
            flags = ["--seed", record["noise_seed"], "--steps", 1, "--warmup", 0, *size]
            code, *_ = generate("flux", "--prompt", record["prompt"], *flags, "--save-path", "g.png")
            with Image.open("g.png") as picture:
                assert (code, abs(np.asarray(picture).astype(int) - one[name]).max()) == (0, 0)


def test_a_picture_that_fails_is_tried_again_and_costs_only_itself(t2i, folder, monkeypatch):
    call = ["--model_name", "FLUX.1-dev", "--prompts_file", "prompts.jsonl", *SMALL, "--ulysses_degree", "2"]
    batched = [*call, "--batch_size", "3", "--output_dir"]
    monkeypatch.setenv(FAIL, json.dumps([PROMPTS[1], [0, 1], 1]))
    assert t2i(*batched, "once")[0] == 0
    assert len(pictures("once")) == 3
    monkeypatch.setenv(FAIL, json.dumps([PROMPTS[1], [0, 1], 99]))
    assert t2i(*batched, "always")[0] == 1
    assert list(pictures("always")) == ["000000.png", "000002.png"]
    (failure,) = [json.loads(line) for line in Path("always/failures.jsonl").read_text().splitlines()]
    assert (failure["file"], failure["line"], failure["why"]) == ("000001.png", 2, "RuntimeError: the cause")
    # A rank that ends, and well at that, costs its picture a retry; and the others nothing.
    monkeypatch.setenv(FAIL, json.dumps([PROMPTS[1], [1], -1]))
    code, _, told = t2i(*call, "--output_dir", "ends")
    assert (code, list(pictures("ends"))) == (1, ["000000.png", "000002.png"])
    assert told.count("rank 1 ended with exit code 0") == 2
    (failure,) = [json.loads(line) for line in Path("ends/failures.jsonl").read_text().splitlines()]
    assert "rank 1 ended with exit code 0" in failure["why"]
    monkeypatch.delenv(FAIL)
    assert t2i(*batched, "always")[0] == 0
    assert [record["index"] for record in manifest("always")] == [0, 1, 2]
    assert not Path("always/failures.jsonl").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_rank_costs_a_retry_and_a_stopped_job_goes_on_until_every_picture_is_there_once(t2i, folder):
    rows_file(folder / "rows.jsonl")
    flags = ["--prompts_file", "rows.jsonl", "--height", "16", "--width", "16", "--num_inference_steps", "1"]
    command = [sys.executable, "-m", "ditmesh", "t2i", "--model_name", "FLUX.1-dev", *flags, "--num_gpus", "2"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "200"}
    listed = folder / "output" / "manifest.jsonl"
    job = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(30, listed, job)
        os.kill(ranks_of(job.pid)[-1], signal.SIGKILL)
        after_kill = len(whole_records(listed))
        wait_for(after_kill + 20, listed, job)
        job.send_signal(signal.SIGINT)
        out, err = job.communicate(timeout=60)
    finally:
        job.kill()
        job.communicate()
    assert job.returncode == 130
    assert "was ended by SIGKILL" in err
    assert "stopped by SIGINT, and all 2 ranks with it" in err
    assert "Traceback" not in err
    before = {record["file"]: record["sha256"] for record in whole_records(listed)}
    assert f"{len(before)} finished pictures are in output" in out

    code, out, _ = t2i("--model_name", "FLUX.1-dev", *flags)
    assert (code, f"{len(before)} kept" in out) == (1, True)
    failures = [json.loads(line) for line in Path("output/failures.jsonl").read_text().splitlines()]
    assert [failure["line"] for failure in failures] == [8, 51, 91, 121, 200]
    records = manifest("output")
    assert [record["index"] for record in records] == [i for i in range(200) if i not in (7, 50, 90, 120, 199)]
    assert set(pictures("output")) == {record["file"] for record in records}
    assert all(record["sha256"] == before.get(record["file"], record["sha256"]) for record in records)
    assert not list((folder / "output").glob(".*"))


def test_earlier_work_is_not_replaced_unless_that_is_meant(t2i, folder):
    call = ["--model_name", "FLUX.1-dev", "--prompts_file", "prompts.jsonl", *SMALL]
    assert t2i(*call)[0] == 0
    first = pictures("output")
    for other in (["--seed", "3"], ["--guidance_scale", "2"]):
        code, _, told = t2i(*call, *other)
        assert code == 2
        assert "000000.png is there, and is not the picture that this job would draw" in told
    assert pictures("output").keys() == first.keys()
    assert all((pictures("output")[name] == first[name]).all() for name in first)
    # What cannot be told beforehand costs its row alone.
    Path("output/taken.png").mkdir()
    Path("output/link").symlink_to(folder)
    names = ["taken", "link/a", "manifest.jsonl/x", "mine", "x.png", "x.png/y", "a" * 190 + "/" + "b/" * 2000 + "c"]
    rows = [*PROMPTS, *({"prompt": "x", "output_name": name} for name in names)]
    Path("prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, _ = t2i(*call)
    assert (code, "2 pictures drawn, 3 kept" in out) == (1, True)
    failures = [json.loads(line) for line in Path("output/failures.jsonl").read_text().splitlines()]
    assert sorted(failure["line"] for failure in failures) == [4, 5, 6, 9, 10]
    Path("output/taken.png").rmdir()
    Path("prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in ["a blue dog", *PROMPTS[1:]]))
    code, out, _ = t2i(*call, "--overwrite")
    assert (code, "1 picture drawn, 2 kept" in out) == (0, True)
    assert (pictures("output")["000001.png"] == first["000001.png"]).all()
    assert (pictures("output")["000000.png"] != first["000000.png"]).any()
    code, _, told = t2i(*call, "--overwrite", "--dry-run", "--seed", "9")
    assert code == 0


@pytest.mark.parametrize("model", ["flux", "flux2"])
def test_guidance_without_a_second_branch_is_refused_before_loading(folder, t2i, flux, model):
    path = flux if model == "flux" else str(tiny_path(model, folder))
    code, _, told = t2i("--backend", "xdit", "--model_name", path, "--num_gpus", 2, *SMALL, "--use-cfg-parallel")
    only = (
        "a negative_prompt and a true_cfg_scale above 1 (its guidance_scale is an input of guidance-distilled models)"
    )
    words = only if model == "flux" else "is guidance-distilled: a Flux2Pipeline has no second one"
    assert code == 2
    assert words in told
    assert "use these ranks otherwise: ulysses, or data" in told
    assert not Path("output").exists()
