"""A pipeline made of its configurations: hollow models, its own scheduler, its tokenizers if their files are here."""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ditmesh.job.facts import INDEX, read_json
from ditmesh.job.weights import Part
from ditmesh.planner.words import Words
from ditmesh.upstream.hollow_models import build_hollow, class_of

TOKENIZERS = ("tokenizer", "processor")
VOCABULARIES = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model")


def build_part(part: Part, dtype: torch.dtype) -> Any:
    """A component from elsewhere.

    Raises:
        ValueError: it is one file, which does not say what is in it.
    """
    if Path(part.source).expanduser().is_file():
        raise ValueError(f"{part.source} has no config.json, so its size is not known before it is read.")
    name = f"{part.subfolder}/config.json" if part.subfolder else "config.json"
    return build_hollow(class_of("diffusers", part.class_name), read_json(part.source, name), dtype)


def build_pipeline(kind: Any, folder: str, dtype: torch.dtype, parts: Mapping[str, Any]) -> Any:
    """A pipeline of a class, of a folder or hub id of which only JSON files are read; ``parts`` are from elsewhere.

    Raises:
        ValueError: a file is missing, or a class of a component is not known here.
    """
    index = read_json(folder, INDEX)
    wanted = inspect.signature(kind.__init__).parameters
    given: dict[str, Any] = dict(parts)
    for name, value in index.items():
        if name not in wanted or name in parts:
            continue
        match value:
            case [None, None]:
                given[name] = None
            case [str(library), str(class_name)]:
                given[name] = _component(folder, name, library, class_name, dtype)
            case _:
                given[name] = value
    for name, parameter in wanted.items():
        if name != "self" and parameter.default is inspect.Parameter.empty and name not in given:
            given[name] = None
    return kind(**given)


def _component(folder: str, name: str, library: str, class_name: str, dtype: torch.dtype) -> Any:
    if name.startswith(TOKENIZERS):
        return _tokenizer(folder, name)
    kind = class_of(library, class_name)
    if kind is None:
        raise ValueError(
            f"{folder}: {name} is a {class_name}, which the installed {library} does not have; upgrade it."
        )
    if name == "scheduler":
        return kind.from_config(read_json(folder, "scheduler/scheduler_config.json"))
    if not issubclass(kind, torch.nn.Module):  # what prepares pictures or steers guidance
        source = Path(folder).expanduser() / name
        return kind.from_pretrained(str(source)) if source.is_dir() else None
    return build_hollow(kind, read_json(folder, f"{name}/config.json"), dtype)


def _tokenizer(folder: str, name: str) -> Any:
    """The model's own, or what stands for it."""
    from transformers import AutoProcessor, AutoTokenizer

    source = Path(folder).expanduser() / name
    if any((source / file).is_file() for file in VOCABULARIES):
        auto: Any = AutoProcessor if name.startswith("processor") else AutoTokenizer
        return auto.from_pretrained(str(source))
    file = source / "tokenizer_config.json"
    facts = json.loads(file.read_text()) if file.is_file() else {}
    return Words(min(facts.get("model_max_length", 512), 1 << 17))
