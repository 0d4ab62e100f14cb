"""What a rank reads of a checkpoint is what it would keep of the whole, bit for bit."""

from pathlib import Path

import pytest
import torch

from tests.cases import CASES
from tests.loading import lean
from tests.parallel import text_encoders, vaes
from tests.ranks import Ranks
from tests.transformers import SHAPES, build

# What cuts weights, and what drops them; the files hold float32.
LAYOUTS = {"tp2": torch.bfloat16, "pp2": torch.float32}
SMALL = "30KB"  # several files with an index


@pytest.mark.parametrize("name", CASES)
def test_every_transformer(ranks: Ranks, name: str, tmp_path: Path) -> None:
    model, _ = build(name, SHAPES["odd"], torch.float32)
    model.save_pretrained(tmp_path, max_shard_size=SMALL)
    ranks.run(lean.transformers_are_same, 2, type(model), tmp_path, LAYOUTS)


def test_hybrids(ranks: Ranks, tmp_path: Path) -> None:
    model, _ = build("flux", SHAPES["odd"], torch.float32)
    model.save_pretrained(tmp_path)
    layouts = dict.fromkeys(("ulysses2.tp2", "tp4", "pp2.tp2", "ring2.ulysses2", "cfg2.ulysses2"), torch.bfloat16)
    ranks.run(lean.transformers_are_same, 4, type(model), tmp_path, layouts)


@pytest.mark.parametrize("name", text_encoders.ENCODERS)
def test_every_text_encoder(ranks: Ranks, name: str, tmp_path: Path) -> None:
    model = text_encoders.build(name, torch.float32)
    model.save_pretrained(tmp_path, max_shard_size=SMALL)
    for dtype in (torch.float32, torch.bfloat16):
        ranks.run(lean.text_encoders_are_same, 2, type(model), tmp_path, dtype)


@pytest.mark.parametrize("name", vaes.CASES)
def test_every_autoencoder(name: str, tmp_path: Path) -> None:
    model = vaes.build(name, torch.float32)
    model.save_pretrained(tmp_path)
    for dtype in (torch.float32, torch.bfloat16):
        read = lean.load(type(model), tmp_path, dtype)
        lean.read_in([read], lean.CPU)
        lean.assert_same(read, type(model).from_pretrained(tmp_path, dtype=dtype))
