"""Where weights come from that are not the model's own: a transformer, a ControlNet, a LoRA."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ditmesh.job.example import ControlNet, Example
from ditmesh.job.facts import PipelineFacts, TransformerFacts, find_file, read_json

LORA_FILE = "pytorch_lora_weights.safetensors"  # as diffusers and peft name it


@dataclass(frozen=True)
class Part:
    """A component that is loaded by itself.

    Attributes:
        name: of the component in the pipeline.
        source: a folder, a hub id, or one file.
        subfolder: of it, where it is a whole pipeline.
    """

    name: str
    class_name: str
    source: str
    subfolder: str | None = None


@dataclass(frozen=True)
class LoraWeights:
    """A file of LoRA weights on this machine, and whether they are fused into the model's."""

    file: Path
    fuse: bool


def find_transformer(path: str | None) -> tuple[Part, TransformerFacts] | None:
    """What --transformer-path names: a saved transformer, or the one of a saved pipeline."""
    if path is None:
        return None
    folder = Path(path).expanduser()
    subfolder = "transformer" if folder.is_dir() and not (folder / "config.json").exists() else None
    config = read_json(path, f"{subfolder}/config.json" if subfolder else "config.json", "--transformer-path", "model")
    if "_class_name" not in config:
        raise ValueError(f"--transformer-path {path}: its config.json names no class of diffusers; check the folder.")
    facts = TransformerFacts(config["_class_name"], config)
    return Part("transformer", facts.class_name, path, subfolder), facts


def find_controlnet(path: str | None, example: Example, facts: PipelineFacts) -> Part | None:
    """The ControlNet to add: the one asked for, else the example's where the saved model has none.

    Raises:
        ValueError: the pipeline takes none, or it is not there.
    """
    own = example.controlnet
    if own is None:
        if path is not None:
            raise ValueError(f"--controlnet-path: a {example.pipeline} has no ControlNet; leave it out.")
        return None
    if path is not None:
        return _asked_controlnet(path, own)
    if "controlnet" in facts.components:
        return None
    flag = "--controlnet-path"
    if own.file is None:
        read_json(own.model, "config.json", flag, "ControlNet")
        return Part("controlnet", own.class_name, own.model)
    return Part("controlnet", own.class_name, str(find_file(own.model, own.file, flag, "check --controlnet-path")))


def _asked_controlnet(path: str, own: ControlNet) -> Part:
    if Path(path).expanduser().is_file():
        return Part("controlnet", own.class_name, path)
    config = read_json(path, "config.json", "--controlnet-path", "ControlNet")
    if config.get("_class_name", own.class_name) != own.class_name:
        raise ValueError(f"--controlnet-path {path} is a {config['_class_name']}; this example takes {own.class_name}.")
    return Part("controlnet", own.class_name, path)


def find_lora(
    example: Example, path: str | None, name: str | None, fuse: bool, steps: int | None
) -> LoraWeights | None:
    """The LoRA weights asked for, else the example's for its number of steps.

    Raises:
        ValueError: they are not there, or nothing here can load them.
    """
    if path is None:
        for flag, given in (("--lora-weight-name", name), ("--disable-fuse-lora", not fuse and example.lora is None)):
            if given:
                raise ValueError(f"{flag} is for LoRA weights, and there are none; add --lora-path.")
        if example.lora is None:
            return None
    if find_spec("peft") is None:
        raise ValueError("LoRA weights need the package peft, which is not installed; run: pip install peft")
    if path is not None:
        file = _asked_lora(path, name)
    else:
        assert example.lora is not None
        files = example.lora.files
        own = files.get(steps or 0, next(iter(files.values())))
        file = find_file(example.lora.model, own, "--lora-path", "check --lora-path")
    return LoraWeights(file, fuse)


def _asked_lora(path: str, name: str | None) -> Path:
    folder = Path(path).expanduser()
    if folder.is_file():
        if name is not None:
            raise ValueError(f"--lora-path {path} is a file already; leave --lora-weight-name out.")
        found = folder
    elif folder.is_dir() and name is None:
        names = sorted(file.name for file in folder.glob("*.safetensors"))
        if len(names) != 1:
            there = f"several: add --lora-weight-name {names[0]}" if names else "none; check the folder"
            raise ValueError(f"--lora-path {path}: of LoRA weights (*.safetensors) it holds {there}.")
        found = folder / names[0]
    else:
        found = find_file(path, name or LORA_FILE, "--lora-path", "name the file by --lora-weight-name")
    if found.suffix != ".safetensors":
        raise ValueError(f"--lora-path {found} is no .safetensors file, and nothing else is read; convert it first.")
    return found
