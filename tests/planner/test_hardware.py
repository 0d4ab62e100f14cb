"""Devices as data: every shipped one can be read, a name is found as people write it, and the user's own go first."""

from dataclasses import replace
from pathlib import Path

import pytest

from ditmesh.planner.hardware import hardware, read_table, users_file, write_entry

ASKED = "L20 L40S A10 A30 A100-40 A100-80 A800 H20 H800 H100 H200 B200 B300 RTX-4090 RTX-5090 RTX-PRO-6000 MI300X CPU"


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path


def test_every_shipped_device_is_whole():
    table = read_table()
    assert set(ASKED.split()) <= set(table.devices)
    for name in table.devices:
        device = hardware(name, table)
        assert device.source, name
        assert {"float32", "bfloat16"} <= set(device.rates), name
        assert {"matmul", "attention", "convolution", "memory", "link"} == set(device.efficiency), name
        assert all(0 < part <= 1 for part in device.efficiency.values()), name
        for topology in table.topologies:
            assert hardware(name, table, topology).links


@pytest.mark.parametrize(
    ("said", "meant"), [("l20", "L20"), ("rtx4090", "RTX-4090"), ("4090", "RTX-4090"), ("NVIDIA H100", "H100")]
)
def test_a_name_is_found_as_people_write_it(said: str, meant: str):
    assert hardware(said).name == meant


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("L2O", "did you mean 'L20'.*To add one, write a table"),
        ("A100", "several devices; name A100-40 or A100-80"),
        ("this", "not measured yet; run: ditmesh selftest"),
    ],
)
def test_an_unknown_device_is_refused(said: str, told: str):
    with pytest.raises(ValueError, match=told):
        hardware(said)


def test_a_measured_device_is_written_and_read_back():
    here = replace(hardware("CPU"), name="this", source="Bob's machine", memory=2**33)
    for memory in (2**33, 2**34):  # the second takes the place of the first
        write_entry(replace(hardware("L20"), name="beside", memory=memory))
        path = write_entry(replace(here, memory=memory))
    assert path == users_file()
    found = hardware("this")
    assert found.memory == hardware("beside").memory == 2**34
    assert found.links == here.links
    assert found.rates == here.rates
    assert path.read_text().count("[device.this]") == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[devices.x]", "'devices' is no part of it"),
        ("[device.x]\nmemori = 3", "has 'memori'; did you mean 'memory'"),
        ("[device.x]\nmemory = 3", r"\[device.x\] is no device"),
        ("[device.x", "has to be TOML"),
        ("[device.x]\nmemory=-3\nbandwidth=1\nrates={}\ntopology='pcie4'", "memory = -3 is no number above 0"),
        ("[device.x]\nmemory=3\nbandwidth=1\nrates={}\ntopology='pci4'", "no topology 'pci4'; did you mean 'pcie4'"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, text: str, told: str):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=told):
        hardware("x", read_table(path))
