"""Damage a saved pipeline, and load it on ranks."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import ditmesh
from ditmesh import ParallelismConfig

INDEX = "diffusion_pytorch_model.safetensors.index.json"
KEY = "proj_out.weight"


def _file_of(folder: Path, key: str) -> Path:
    return folder / json.loads((folder / INDEX).read_text())["weight_map"][key]


def _change(file: Path, **changes: Any) -> None:
    """Replace, add or (None) remove tensors of a file."""
    weights = {key: x.clone() for key, x in load_file(file).items()} | changes
    save_file({key: x for key, x in weights.items() if x is not None}, file, {"format": "pt"})


def cut_off(folder: Path) -> str:
    file = _file_of(folder, KEY)
    file.write_bytes(file.read_bytes()[:-40])
    return file.name


def missing_file(folder: Path) -> str:
    file = _file_of(folder, KEY)
    file.unlink()
    return file.name


def empty_file(folder: Path) -> str:
    file = _file_of(folder, KEY)
    file.write_bytes(b"")
    return file.name


def missing_key(folder: Path) -> str:
    _change(_file_of(folder, KEY), **{KEY: None})
    return KEY


def surplus_key(folder: Path) -> str:
    _change(_file_of(folder, KEY), surplus=torch.ones(2))
    return "surplus"


def wrong_shape(folder: Path) -> str:
    _change(_file_of(folder, KEY), **{KEY: torch.ones(3, 3)})
    return KEY


def wrong_config(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_layers": config["num_layers"] + 1}))
    return f"transformer_blocks.{config['num_layers']}."


def wrong_index(folder: Path) -> str:
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"][KEY] = "elsewhere.safetensors"
    (folder / INDEX).write_text(json.dumps(index))
    return "elsewhere.safetensors"


def no_json(folder: Path) -> str:
    (folder / INDEX).write_text('{"weight_map": {')
    return INDEX


def pickles(folder: Path) -> str:
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    torch.save({KEY: torch.ones(1)}, folder / "diffusion_pytorch_model.bin")
    return "allow_pickle=True"


FILES = (cut_off, missing_file, empty_file, wrong_index, no_json, pickles)
FAULTS = (*FILES, missing_key, surplus_key, wrong_shape, wrong_config)


def refused(folders: list[Path], whole: Path) -> str:
    """What a rank is told that loads its own folder of these; all load another one then."""
    import torch.distributed as dist

    config = ParallelismConfig(tp_size=len(folders))
    told = ""
    try:
        ditmesh.from_pretrained(folders[dist.get_rank()], parallelism_config=config)
    except (ValueError, RuntimeError) as error:
        told = f"{type(error).__name__}: {error}"
    ditmesh.disable_cache(ditmesh.from_pretrained(whole, parallelism_config=config))
    return told
