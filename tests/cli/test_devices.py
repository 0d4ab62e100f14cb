"""Which ranks a machine is asked for, and which one a process takes itself for."""

import pytest

from ditmesh import ParallelismConfig
from ditmesh.job import devices
from ditmesh.runtime.world import World, check_launched


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"RANK": "1"}, "WORLD_SIZE is not; unset RANK"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, "MASTER_ADDR is not; unset RANK"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "no rank of RANK=one, WORLD_SIZE=2; unset RANK"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "no rank of RANK=2, WORLD_SIZE=2; unset RANK"),
    ],
    ids=["alone", "nowhere", "no number", "too high"],
)
def test_a_stray_rank_is_named(environment, words):
    def read():
        World.read(environment)
        check_launched(environment)

    with pytest.raises(ValueError, match=words):
        read()


def test_more_ranks_than_a_machine_bears_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(devices.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(devices, "cores", lambda: 2)
    devices.check_bearable(ParallelismConfig(ring_size=16), 16, str(tmp_path))
    with pytest.raises(ValueError, match="starts 17 ranks on this machine, and its 2 CPU cores bear 16"):
        devices.check_bearable(ParallelismConfig(ring_size=17), 17, str(tmp_path))
    with (tmp_path / "large.safetensors").open("wb") as file:
        file.truncate(2**42)  # takes no room on the disk
    with pytest.raises(ValueError, match=r"the 4096\.0 GiB of weights of .* 4 times"):
        devices.check_bearable(ParallelismConfig(ring_size=4, tp_size=2), 8, str(tmp_path))
