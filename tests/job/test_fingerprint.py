"""What a model's weights are called: the same wherever they lie and however that is spelled, and else not."""

import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from ditmesh.job import fingerprint as module
from ditmesh.job.fingerprint import fingerprint
from ditmesh.job.picture import name_of

PARTS = ("transformer", "vae")


@pytest.mark.parametrize("whole", [1 << 20, 0], ids=["small files", "large files"])
def test_any_changed_tensor_is_another_model_and_another_place_is_not(tmp_path, flux, monkeypatch, whole):
    monkeypatch.setattr(module, "WHOLE", whole)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(flux, "m")
    first = fingerprint("m", PARTS)
    shutil.copytree("m", "other")
    (tmp_path / "m" / "output").mkdir()
    (tmp_path / "m" / "output" / "000000.png").write_bytes(b"x")
    assert {fingerprint(name, PARTS) for name in ("./m", "m/", str(tmp_path / "m"), "other")} == {first}
    (file,) = (tmp_path / "m" / "transformer").glob("*.safetensors")
    weights, size = load_file(file), file.stat()
    for name, tensor in weights.items():
        save_file({**weights, name: tensor + torch.ones_like(tensor)}, file, {"format": "pt"})
        assert file.stat().st_size == size.st_size
        os.utime(file, ns=(size.st_atime_ns, size.st_mtime_ns))
        assert fingerprint("m", PARTS) != first, name
    assert fingerprint(str(file)) != first


def test_a_model_is_named_without_where_it_lies(tmp_path):
    cached = tmp_path / "models--black-forest-labs--FLUX.1-dev" / "snapshots" / "0a1b"
    cached.mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    assert name_of(str(cached)) == name_of("black-forest-labs/FLUX.1-dev") == "black-forest-labs/FLUX.1-dev"
    assert name_of(str(tmp_path / "mine")) == name_of(f"{tmp_path}/mine/") == "mine"
