"""Configurations of checkpoints that many use, so that they can be planned for where nothing of them is downloaded.

An entry has for each component its library, its class and what its configuration file says beyond what the class
has for default, and for the pipeline its own settings. What the class defaults to is not repeated.
"""

import json
import os
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import yaml

from ditmesh.job.facts import INDEX

FILES = ("pictures.yaml", "videos.yaml")


@cache
def checkpoints() -> Mapping[str, Mapping[str, Any]]:
    """What is known of a checkpoint, by its hub id."""
    here = resources.files(__package__ or "")
    found = [yaml.safe_load((here / file).read_text()) for file in FILES]
    return {name: entry for entries in found for name, entry in entries.items() if not name.startswith(".")}


def configs_of(model: str) -> str:
    """Where to read the configurations of a model: there itself, or in a folder that is written for this.

    A folder is itself, and so is a hub id of which the index is in the hub's cache, or nothing else is known.
    """
    known = checkpoints().get(model)
    if known is None or Path(model).expanduser().is_dir() or _is_cached(model):
        return model
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ditmesh" / "checkpoints"
    try:
        return str(_write(known, base / model))
    except OSError:  # the cache cannot be written
        return str(_write(known, Path(mkdtemp(prefix="ditmesh-"))))


def _is_cached(model: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(model, INDEX), str)


def _write(entry: Mapping[str, Any], folder: Path) -> Path:
    for name, text in _texts(entry):
        file = folder / name
        if not file.is_file() or file.read_text() != text:
            file.parent.mkdir(parents=True, exist_ok=True)
            made = file.with_name(f"{file.name}.{os.getpid()}")
            made.write_text(text)
            made.replace(file)
    return folder


def _texts(entry: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The JSON files of a checkpoint; the index last, so that it is there when all are."""
    index: dict[str, Any] = {}
    for name, value in entry.items():
        match value:
            case [library, class_name, dict(config)]:
                index[name] = [library, class_name]
                diffusers = {"_class_name": class_name} if library == "diffusers" else {}
                yield f"{name}/{_file_of(name)}", json.dumps({**diffusers, **config})
            case _:
                index["_class_name" if name == "pipeline" else name] = value
    yield INDEX, json.dumps(index)


def _file_of(component: str) -> str:
    for kind in ("scheduler", "guider", "tokenizer", "processor"):
        if component.startswith(kind):
            return f"{'tokenizer' if kind == 'processor' else kind}_config.json"
    return "config.json"
