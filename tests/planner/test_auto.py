"""Names of devices as drivers tell them, and the choice of a layout that is the same on every rank."""

import pytest

from ditmesh.planner.auto import plain_name
from ditmesh.planner.hardware import GIB, hardware


@pytest.mark.parametrize(
    ("told", "size", "known"),
    [
        ("NVIDIA L20", 44, "L20"),
        ("NVIDIA A100-SXM4-80GB", 79, "A100-80"),
        ("NVIDIA A100-SXM4-40GB", 39, "A100-40"),
        ("NVIDIA A100-PCIE-40GB", 39, "A100-40"),
        ("NVIDIA A800-SXM4-80GB", 79, "A800"),
        ("NVIDIA H100 80GB HBM3", 79, "H100"),
        ("NVIDIA H100 PCIe", 79, "H100-PCIe"),
        ("NVIDIA H200", 139, "H200"),
        ("NVIDIA GeForce RTX 4090", 23, "RTX-4090"),
        ("NVIDIA GeForce RTX 4090 D", 23, "RTX-4090D"),
        ("NVIDIA GeForce RTX 5090", 31, "RTX-5090"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 94, "RTX-PRO-6000"),
        ("AMD Instinct MI300X", 191, "MI300X"),
        ("NVIDIA B200", 178, "B200"),
        ("NVIDIA A10", 22, "A10"),
        ("NVIDIA A30", 23, "A30"),
    ],
)
def test_a_device_is_known_by_what_its_driver_calls_it(told: str, size: int, known: str):
    assert hardware(plain_name(told, size * GIB)).name == known


def test_a_device_that_is_not_in_the_table_is_refused():
    with pytest.raises(ValueError, match="there is no device 'Q9'"):
        hardware(plain_name("NVIDIA Q9", GIB))
