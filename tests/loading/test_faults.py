"""Files that are missing, damaged or of another model: one error that names them, on all ranks, and nothing hangs."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from diffusers import FluxTransformer2DModel

from tests.loading import faults
from tests.ranks import Ranks
from tests.tiny import tiny_path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "flux"
    shutil.copytree(tiny_path("flux", tmp_path_factory.mktemp("tiny")), folder)
    model = FluxTransformer2DModel.from_pretrained(folder / "transformer")
    for file in (folder / "transformer").glob("*.safetensors"):
        file.unlink()
    model.save_pretrained(folder / "transformer", max_shard_size="100KB")
    return folder


@pytest.mark.parametrize("damage", faults.FAULTS)
def test_a_fault_is_named_on_all_ranks(
    ranks: Ranks, whole: Path, tmp_path: Path, damage: Callable[[Path], str]
) -> None:
    folder = tmp_path / "flux"
    shutil.copytree(whole, folder)
    named = damage(folder / "transformer")
    for told in ranks.run(faults.refused, 2, [folder, folder], whole):
        assert told.startswith("ValueError: ")
        assert named in told
        assert "transformer" in told


def test_a_fault_of_one_rank_ends_the_load_on_all(ranks: Ranks, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "flux"
    shutil.copytree(whole, folder)
    named = faults.cut_off(folder / "transformer")
    for told in ranks.run(faults.refused, 2, [whole, folder], whole):
        assert named in told
