"""What the tests of several verbs share."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def save_index(folder: Path, pipeline: str, transformer: str, config: dict[str, Any]) -> str:
    """A saved pipeline without a single weight: whatever loads it fails."""
    (folder / "transformer").mkdir(parents=True)
    index = {
        "_class_name": pipeline,
        "transformer": ["diffusers", transformer],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": [None, None],
        "text_encoder_out_layers": [9, 18],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "transformer" / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.fixture
def weightless(tmp_path):
    """A FLUX.1 of 8 heads and 3 blocks without a single weight."""
    config = {"num_attention_heads": 8, "attention_head_dim": 16, "num_layers": 1, "num_single_layers": 2}
    return save_index(tmp_path / "weightless", "FluxPipeline", "FluxTransformer2DModel", config)


@pytest.fixture
def refused(capsys, monkeypatch, tmp_path) -> Callable[..., list[str]]:
    """Run `ditmesh VERB ...`, which must refuse with exit code 2; return the lines it wrote to stderr."""
    from ditmesh.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, verb: str = "generate", code: int = 2) -> list[str]:
        with pytest.raises(SystemExit) as end:
            main([verb, *arguments])
        assert end.value.code == code
        out, err = capsys.readouterr()
        assert out == ""
        return err.splitlines()

    return run


@pytest.fixture
def launched(monkeypatch) -> Callable[..., None]:
    """Make this process look like a rank that torchrun started."""

    def look(rank: int, size: int) -> None:
        ranks = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size}
        for name, value in (ranks | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1, "TORCHELASTIC_RUN_ID": "x"}).items():
            monkeypatch.setenv(name, str(value))

    return look
