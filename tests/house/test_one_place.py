"""A thing is known in one place: what is added there is known everywhere."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

HOUSE = Path(__file__).parents[2] / "src" / "ditmesh"
ROW = """\
    expert_size: int = _row(
        Axis("Expert", "experts, some each", "forward", "--expert_degree", "Experts.", "DG_XDIT_EXPERT_DEGREE", 2, "so")
    )
    tp_size: int"""
AXIS = """
import sys
from ditmesh import ParallelismConfig
from ditmesh.cli.t2i.degrees import choose_degrees
from ditmesh.config import describe_groups, rank_groups, sharing
layout = ParallelismConfig.parse("expert2.tp3")
assert str(layout) == "expert2.tp3" == str(ParallelismConfig(expert_size=2, tp_size=3))
assert rank_groups(layout, "expert") == [[0, 3], [1, 4], [2, 5]]
assert describe_groups(layout)[1].startswith("experts, some each (expert2): ranks 0, 3;")
assert sharing("forward") == ("pp", "ring", "ulysses", "expert", "tp")
assert str(choose_degrees({"tp_size": 2}, {"DG_XDIT_EXPERT_DEGREE": "on"}, 4, {})) == "expert2.tp2"
from ditmesh.cli.app import app
from typer.main import get_command
shown = [name for option in get_command(app).commands["t2i"].params for name in option.opts]
assert "--expert_degree" in shown
from ditmesh import strify
assert strify({"parallelism_config": layout}) == "Expert2_TP3"
"""
FILE = """
from dataclasses import dataclass
from typing import ClassVar
from ditmesh.config.cache import CalibratorConfig, setting

@dataclass(frozen=True)
class DampedCalibratorConfig(CalibratorConfig):
    title: ClassVar[str] = "Damped"
    flag: ClassVar[tuple[str, str]] = ("Let it fade.", "--damped")
    enable_calibrator: bool = True
    calibrator_type: str = "damped"
    damped_share: float = setting(0.5, "What stays of it.", "--damped-share X")

    def forecast(self, total):
        return Damped(self.damped_share)

class Damped:
    def __init__(self, share):
        self.share = share
    def update(self, step, value):
        self.value = value
    def at(self, step):
        return self.value * self.share
"""
CALIBRATOR = """
import torch
from torch import nn
import ditmesh
from ditmesh.cli.examples import EXAMPLES
from ditmesh.cli.generate.cache import asked_cache
from ditmesh.cli.generate.options import Options

options = Options("flux", cache=True, damped=True, damped_share=0.25)
flags = asked_cache(options, {}, EXAMPLES["flux"], 1, 28).calibrator
section = {"enable_damped": True, "damped_share": 0.25, "Fn_compute_blocks": 1, "max_warmup_steps": 1,
           "residual_diff_threshold": 1.0, "num_inference_steps": 2}
file = ditmesh.load_configs({"cache_config": section})
assert file["calibrator_config"] == flags
plain = ditmesh.CalibratorConfig(calibrator_type="damped", calibrator_kwargs={"damped_share": 0.25})
assert plain.own.damped_share == 0.25
assert "_DAMPED" in ditmesh.strify(file)

class Block(nn.Module):
    def forward(self, hidden_states):
        return hidden_states + 1

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(5))
    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x

model = Model()
pattern = ditmesh.ForwardPattern.Pattern_3
ditmesh.enable_cache(ditmesh.BlockAdapter(transformer=model, blocks=model.blocks, forward_pattern=pattern), **file)
x = torch.ones(1, 2, 3)
assert model(x).unique().tolist() == [6.0]
assert model(x).unique().tolist() == [3.0]  # the first block runs, and of the four others a quarter is left
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources with an axis and a calibrator more: a row in one file, and a file."""
    house = tmp_path_factory.mktemp("src") / "ditmesh"
    shutil.copytree(HOUSE, house, ignore=shutil.ignore_patterns("demo_model", "__pycache__"))
    axes = house / "config" / "axes.py"
    axes.write_text(axes.read_text("utf-8").replace("    tp_size: int", ROW), "utf-8")
    (house / "cache" / "calibrators" / "damped.py").write_text(FILE, "utf-8")
    return house.parent


@pytest.mark.parametrize("script", [AXIS, CALIBRATOR], ids=["axis", "calibrator"])
def test_what_is_added_in_one_place_is_known_everywhere(copy: Path, script: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(copy)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, cwd=copy)
    assert done.returncode == 0, done.stderr
