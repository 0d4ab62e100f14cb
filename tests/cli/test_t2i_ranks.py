"""`ditmesh t2i`: the same pictures on any layout, whatever is in the file and whoever is killed."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ditmesh
from tests.batch.factory import (
    SMALL,
    draw,
    failing,
    manifest,
    parse,
    pictures,
    ranks_of,
    rows_file,
    wait_for,
    whole_records,
)
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


LAYOUT = ("--num_gpus", "--batch_size", "--backend", "--ulysses_degree", "--nnodes", "--node_rank", "--rdzv_endpoint")


@pytest.mark.parametrize("command", commands(), ids=name_of)
def test_every_command_of_the_page_draws_what_one_process_draws(ranks, folder, monkeypatch, command):
    environment, arguments = command
    flux = str(DEMO)
    monkeypatch.setenv("FLUX_DIR", flux)
    batch, _ = parse(arguments, environment)
    world = batch.job.layout.world_size
    if world > 8 or batch.nodes:
        return  # the layout is right; so many ranks are for a larger machine
    call = [*arguments, *SMALL, "--output_dir"]
    codes = ranks.run(draw, world, [*call, "out"], environment, flux, str(folder))
    assert codes == [0] * world
    alone = [*without_layout(arguments), *SMALL, "--output_dir", "alone"]
    assert ranks.run(draw, 1, alone, {}, flux, str(folder)) == [0]
    ours, reference = pictures("out"), pictures("alone")
    assert list(ours) == list(reference)
    assert len(ours) == (3 if batch.prompt is None else 1)
    assert all(abs(ours[name] - reference[name]).max() <= 1 for name in ours)
    assert [record["file"] for record in manifest("out")] == list(ours)


def test_the_picture_does_not_depend_on_batches_and_is_that_of_generate(ranks, folder, flux, generate):
    Path("many.jsonl").write_text(
        '{"prompt": "a red dog", "num_images_per_prompt": 2}\n"a cat"\n{"prompt": "a bird", "negative_prompt": "sky", '
        '"true_cfg_scale": 2}\n{"prompt": "a fish", "seed": 5, "height": 48}\n"a cow"\n'
    )
    call = ["--model_name", "FLUX.1-dev", "--prompts_file", "many.jsonl", "--seed", "3", *SMALL, "--output_dir"]
    assert ranks.run(draw, 1, [*call, "one"], {}, flux, str(folder)) == [0]
    assert ranks.run(draw, 1, [*call, "four", "--batch_size", "4"], {}, flux, str(folder)) == [0]
    one, four = pictures("one"), pictures("four")
    assert list(one) == [f"00000{i}.png" for i in ("0_00", "0_01", "1", "2", "3", "4")]
    assert one["000003.png"].shape == (48, 48, 3)
    assert all(abs(one[name] - four[name]).max() <= 1 for name in one)
    assert len({picture.tobytes() for picture in one.values()}) == 6
    for name, record in zip(one, manifest("one"), strict=True):
        if record["index"] in (1, 3):
            flags = [
                "--seed",
                record["noise_seed"],
                "--steps",
                1,
                "--height",
                record["settings"]["height"],
                "--warmup",
                0,
            ]
            code, *_ = generate("flux", "--prompt", record["prompt"], "--width", 48, *flags, "--save-path", "g.png")
            with Image.open("g.png") as picture:
                assert (code, abs(np.asarray(picture).astype(int) - one[name]).max()) == (0, 0)


def test_a_picture_that_fails_alike_everywhere_is_tried_again_and_costs_only_itself(ranks, folder, flux):
    call = ["--model_name", "FLUX.1-dev", "--prompts_file", "prompts.jsonl", *SMALL, "--ulysses_degree", "2"]
    batched = [*call, "--batch_size", "3", "--output_dir"]
    once = ranks.run(draw, 2, [*batched, "once"], {}, flux, str(folder), 9, (PROMPTS[1], (0, 1), 1))
    assert once == [0, 0]
    assert len(pictures("once")) == 3
    always = ranks.run(draw, 2, [*batched, "always"], {}, flux, str(folder), 9, (PROMPTS[1], (0, 1), 99))
    assert always == [1, 0]
    assert list(pictures("always")) == ["000000.png", "000002.png"]
    (failure,) = [json.loads(line) for line in Path("always/failures.jsonl").read_text().splitlines()]
    assert (failure["file"], failure["line"], failure["why"]) == ("000001.png", 2, "RuntimeError: the cause")
    assert ranks.run(draw, 2, [*batched, "always"], {}, flux, str(folder)) == [0, 0]
    assert [record["index"] for record in manifest("always")] == [0, 1, 2]
    assert not Path("always/failures.jsonl").exists()


def test_a_failure_on_one_rank_ends_the_job_with_its_cause(ranks, folder, flux):
    call = ["--model_name", "FLUX.1-dev", "--prompts_file", "prompts.jsonl", *SMALL, "--backend", "xdit"]
    flags = ["--num_gpus", "2", "--tensor_parallel_degree", "1", "--data_parallel_degree", "1", "--ring_degree", "2"]
    # The other rank waits in a collective until its peer is gone, as in a job, where the launcher then ends it.
    began = time.monotonic()
    with pytest.raises(AssertionError, match=r"000001\.png failed on rank 1 and not in the same way"):
        ranks.run(lone_failure, 2, [*call, *flags, "--output_dir", "out"], flux, str(folder))
    assert time.monotonic() - began < 60
    assert list(pictures("out")) == ["000000.png"]


def lone_failure(arguments, flux, folder):
    import torch.distributed as dist
    from torch.distributed import TCPStore

    from ditmesh.batch import drawing
    from ditmesh.cli.t2i.run import run
    from ditmesh.job.classes import check_job

    os.environ["FLUX_DIR"] = flux
    os.chdir(folder)
    rank = dist.get_rank()
    port = [29471]
    store = TCPStore("127.0.0.1", port[0], 2, rank == 0, wait_for_workers=False)
    batch, world = parse(arguments, {}, rank, 2)
    drawing.draw, drawing.PATIENCE = failing(drawing.draw, PROMPTS[1], (1,), 99), timedelta(seconds=1)
    return run(batch, check_job(batch.job), world, store)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_job_goes_on_until_every_picture_is_there_once(ranks, folder, flux):
    rows_file(folder / "rows.jsonl")
    flags = ["--prompts_file", "rows.jsonl", "--height", "16", "--width", "16", "--num_inference_steps", "1"]
    command = [sys.executable, "-m", "ditmesh", "t2i", "--model_name", "FLUX.1-dev", *flags, "--num_gpus", "2"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "200"}

    def start():
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    listed = folder / "output" / "manifest.jsonl"
    job = start()
    wait_for(60, listed, job)
    os.kill(ranks_of(job.pid)[-1], signal.SIGKILL)
    killed = time.monotonic()
    out, err = job.communicate(timeout=60)
    assert time.monotonic() - killed < 15
    assert job.returncode == 137
    assert [line for line in err.splitlines() if "was ended by SIGKILL" in line]
    assert "Traceback" not in err
    after_kill = whole_records(listed)
    assert len(after_kill) >= 60
    assert f"{len(after_kill)} finished pictures are in output" in out

    job = start()
    wait_for(len(after_kill) + 20, listed, job)
    job.send_signal(signal.SIGINT)
    interrupted = time.monotonic()
    job.communicate(timeout=60)
    assert time.monotonic() - interrupted < 10
    assert job.returncode == 130
    after_interrupt = whole_records(listed)

    arguments = ["--model_name", "FLUX.1-dev", *flags]
    assert ranks.run(draw, 2, arguments, {}, flux, str(folder)) == [1, 0]
    failures = [json.loads(line) for line in Path("output/failures.jsonl").read_text().splitlines()]
    assert [failure["line"] for failure in failures] == [8, 51, 91, 121, 200]

    records = manifest("output")
    good = [i for i in range(200) if i not in (7, 50, 90, 120, 199)]
    assert [record["index"] for record in records] == good
    assert set(pictures("output")) == {record["file"] for record in records}
    before = {record["file"]: record["sha256"] for record in (*after_kill, *after_interrupt)}
    assert all(record["sha256"] == before.get(record["file"], record["sha256"]) for record in records)
    assert not list((folder / "output").glob(".*"))


@pytest.mark.parametrize("model", ["flux", "flux2"])
def test_guidance_without_a_second_branch_is_refused_before_loading(folder, ranks, flux, model):
    path = flux if model == "flux" else str(tiny_path(model, folder))
    arguments = ["--backend", "xdit", "--model_name", path, "--num_gpus", "2", *SMALL]
    said = ranks.run(draw, 2, arguments, {"DG_XDIT_USE_CFG_PARALLEL": "true"}, flux, str(folder))
    only = (
        "a negative_prompt and a true_cfg_scale above 1 (its guidance_scale is an input of guidance-distilled models)"
    )
    words = only if model == "flux" else "is guidance-distilled: a Flux2Pipeline has no second one"
    assert all(words in text and "use these ranks otherwise: ulysses, or data" in text for text in said)
    assert not Path("output").exists()
