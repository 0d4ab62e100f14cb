"""What the documents of this interface show runs as it stands but for one import, and draws what one process does."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import typer
from diffusers import DiffusionPipeline

import ditmesh
from ditmesh import DBCacheConfig
from ditmesh.cli import app
from ditmesh.cli.generate.job import describe_job
from ditmesh.cli.generate.options import Options
from ditmesh.job.draw import draw
from ditmesh.job.load import share_out
from ditmesh.runtime.world import World
from tests.api import seeds
from tests.ranks import Ranks
from tests.tiny import call_kwargs, tiny_path

pytestmark = pytest.mark.slow

TOLERANCE = 2e-5  # of pixels in [0, 1], after guidance and a random VAE
# What stands for the dots: the second of two steps is cached, whatever it holds, or none is.
CACHES = {"cached": "Fn_compute_blocks=1, max_warmup_steps=1, residual_diff_threshold=1.0"}
CACHES |= {"exact": "Fn_compute_blocks=1, max_warmup_steps=1, residual_diff_threshold=0.0"}
SMALL = "--steps 2 --height 48 --width 80 --warmup 0"


def load(path: Path) -> Any:
    pipe = DiffusionPipeline.from_pretrained(path)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture(pipe: Any, call: dict[str, Any]) -> np.ndarray:
    torch.manual_seed(0)
    return np.asarray(pipe(**call, generator=torch.Generator().manual_seed(0), output_type="np")[0])


def statements(code: str, cache: str) -> list[ast.stmt]:
    return ast.parse(code.replace("DBCacheConfig(...)", f"DBCacheConfig({CACHES[cache]})")).body


def execute(path: Path, call: dict[str, Any], codes: list[str], caches: list[str]) -> list[np.ndarray]:
    """Run a document's code, draw after each call in it, and take the call back for the next one."""
    pipe, drawn = load(path), []
    names = {"cache_dit": ditmesh, "DBCacheConfig": DBCacheConfig, "pipe": pipe, "pipe_or_adapter": pipe}
    sys.modules["cache_dit"] = ditmesh  # the one import that changes
    try:
        for code in codes:
            for cache in caches:
                for statement in statements(code, cache):
                    exec(compile(ast.Module([statement], []), "document", "exec"), names)
                    if isinstance(statement, ast.Expr):
                        drawn.append(picture(pipe, call))
                        ditmesh.disable_cache(pipe)
    finally:
        del sys.modules["cache_dit"]
    return drawn


def alone(path: Path, call: dict[str, Any], cache: str) -> np.ndarray:
    """The same on one process: the bare pipeline, or with the same steps cached."""
    pipe = load(path)
    with torch.no_grad():
        exact = picture(pipe, call)
        if cache == "exact":
            return exact
        ditmesh.enable_cache(pipe, cache_config=eval(f"DBCacheConfig({CACHES[cache]})"))
        cached = picture(pipe, call)
    assert np.abs(cached - exact).max() > 100 * TOLERANCE, "nothing was cached"
    return cached


def check(ranks: Ranks, folder: Path, world: int, name: str, codes: list[str], caches: list[str]) -> None:
    path, call = tiny_path(name, folder), call_kwargs(name)
    calls = sum(isinstance(x, ast.Expr) for code in codes for x in statements(code, "exact"))
    wants = [alone(path, call, cache) for cache in caches]
    for got in ranks.run(execute, world, path, call, codes, caches):
        assert len(got) == calls * len(caches)
        for i, image in enumerate(got):
            one_code = calls // len(codes)
            assert np.abs(image - wants[i // one_code % len(caches)]).max() <= TOLERANCE


@pytest.mark.parametrize(
    ("name", "codes", "caches"),
    [
        ("flux2", seeds.HYBRID, ["cached"]),
        ("flux2", seeds.HYBRID_SHORT, ["cached"]),
        ("qwen_image", seeds.HYBRID[2:3], ["cached"]),
    ],
    ids=["hybrid", "hybrid, short", "qwen_image"],
)
def test_hybrids_on_eight_ranks(ranks: Ranks, tmp_path: Path, name: str, codes: Any, caches: list[str]) -> None:
    check(ranks, tmp_path, 8, name, list(codes), caches)


@pytest.mark.parametrize("name", ["flux", "qwen_image", "wan", "hunyuan_image", "hunyuan_video"])
def test_tensor_parallelism_on_two_ranks(ranks: Ranks, tmp_path: Path, name: str) -> None:
    check(ranks, tmp_path, 2, name, list(seeds.TENSOR), ["cached"])


@pytest.mark.parametrize(
    ("name", "codes"),
    [
        ("flux2", seeds.EXTRA_MODULES[:1]),
        ("flux", seeds.EXTRA_MODULES[1:2]),
        ("z_image_controlnet", seeds.EXTRA_MODULES[2:]),
    ],
    ids=["text encoder", "VAE", "ControlNet"],
)
def test_extra_modules_on_two_ranks(ranks: Ranks, tmp_path: Path, name: str, codes: Any) -> None:
    check(ranks, tmp_path, 2, name, list(codes), ["cached"])


def commands(world: int) -> list[list[str]]:
    """The arguments of `generate` in each command line for so many ranks."""
    found = re.findall(
        rf"^torchrun --nproc_per_node={world} -m cache_dit\.generate (.*)$", seeds.COMMANDS, re.MULTILINE
    )
    return [line.split() for line in found]


def with_small(arguments: list[str], model: Path) -> list[str]:
    warmup = ["--ws", "1", "--rdt", "1"] if "--cache" in arguments else []
    return [*arguments, *SMALL.split(), *warmup, "--model-path", str(model)]


def job_of(arguments: list[str], world: World) -> Any:
    command = typer.main.get_command(app.app).commands["generate"]
    return describe_job(Options(**command.make_context("generate", list(arguments)).params), world)


def run_commands(lines: list[list[str]], model: Path) -> list[tuple[str, bool, np.ndarray]]:
    """What every command line draws, on one loaded pipeline."""
    pipe, drawn = load(model), []
    size = dist.get_world_size()
    for line in lines:
        job = job_of(with_small(line, model), World(dist.get_rank(), size, dist.get_rank(), size, launched=True))
        share_out(pipe, job)
        drawn.append((str(job.layout), job.cache is not None, draw(pipe, job, job.call, job.seed).films))
        ditmesh.disable_cache(pipe)
    return drawn


def test_command_lines_draw_what_one_process_draws(ranks: Ranks, tmp_path: Path) -> None:
    model, wants = tiny_path("flux2", tmp_path), {}
    pipe = load(model)
    for cached in (False, True):
        job = job_of(with_small(["flux2", "--cache"] if cached else ["flux2"], model), World())
        share_out(pipe, job)
        with torch.no_grad():
            wants[cached] = draw(pipe, job, job.call, job.seed).films
    layouts = ["tp8", "ulysses2.tp4", "ulysses4.tp2", "ring4.tp2", "ring2.tp4", "ring2.ulysses2.tp2"]
    layouts += ["ulysses2.tp4", "ulysses4.tp2", "ring2.ulysses2.tp2"]
    assert len(commands(8)) == len(layouts)
    for world, expected in ((4, ["tp4"]), (8, layouts)):
        for got in ranks.run(run_commands, world, commands(world), model):
            assert [layout for layout, *_ in got] == expected
            assert [cached for _, cached, _ in got] == [i > 5 for i in range(len(got))]
            assert all(np.abs(films - wants[cached]).max() <= TOLERANCE for _, cached, films in got)


def test_a_command_line_under_torchrun_with_a_cache(tmp_path: Path) -> None:
    """On four ranks, not on eight: what those would draw is in the test before."""
    model = tiny_path("flux2", tmp_path)
    line = next(line for line in commands(8) if "--cache" in line)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4"]
    done = subprocess.run(
        [*torchrun, "-m", "ditmesh.generate", *with_small(line, model)],
        cwd=tmp_path,
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"optimization +ulysses2\.tp2 with text_encoder shared, DBCache_F1B0_W1\S+_S1$", done.stdout, re.M)
    assert list(tmp_path.glob("flux2.48x80.ulysses2.tp2.DBCache_F1B0_W1I1M0MC3_R1_CFG0_T0O0_S1.png"))
