"""The examples of `ditmesh generate`: what each loads and how it calls it, read from the YAML files beside this."""

import difflib
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

import ditmesh
from ditmesh.job.example import CacheSettings, ControlNet, Example, Images, Lora

HERE, PACKAGE = Path(__file__).parent, Path(ditmesh.__file__).parent
PARTS = {"images": Images, "lora": Lora, "controlnet": ControlNet, "cache": CacheSettings}


def _read(file: str) -> dict[str, Example]:
    """The examples of a file; what begins with a dot is for others of the file to repeat."""
    rows: dict[str, dict[str, Any]] = yaml.safe_load((HERE / file).read_text())
    return {name: _example(name, row) for name, row in rows.items() if not name.startswith(".")}


def _example(name: str, row: dict[str, Any]) -> Example:
    fields = {"folder_variable": f"{name.upper().replace('.', '_')}_DIR"} | row
    if fields["folder_variable"] is None:
        fields["model"] = str(PACKAGE / fields["model"])
    parts = {part: kind(**_frozen(row[part])) for part, kind in PARTS.items() if part in row}
    return Example(name, **_frozen(fields) | parts)


def _frozen(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


PICTURES = _read("pictures.yaml")
EXAMPLES = {**PICTURES, **_read("edits.yaml"), **_read("videos.yaml")}
# Names that users may know from elsewhere.
ABSENT = {
    "boogu_image_edit": "diffusers has no pipeline for it",
    "flux_nunchaku": "it needs nunchaku's quantized weights and kernels, which ditmesh does not run; use flux",
    "zimage_turbo_nunchaku": "it needs nunchaku's quantized weights and kernels, which ditmesh does not run; "
    "use zimage_turbo",
}


def find_example(name: str) -> Example:
    """The example of that name.

    Raises:
        ValueError: there is none.
    """
    if name in ABSENT:
        raise ValueError(f"there is no example {name!r}: {ABSENT[name]}.")
    if name not in EXAMPLES:
        close = difflib.get_close_matches(name, EXAMPLES, n=1)
        meant = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(EXAMPLES)}."
        raise ValueError(f"there is no example {name!r}; {meant} (`ditmesh generate list` says more)")
    return EXAMPLES[name]


def example_of(pipeline: str, model: str) -> Example | None:
    """The example that says how a saved pipeline of this class is called; None if there is none.

    That of the very model goes first; then those of models that do not ship, and that load no LoRA weights.
    """
    folder = Path(model).expanduser().absolute()
    found = [example for example in EXAMPLES.values() if pipeline in (example.pipeline, *example.saved_as)]
    return min(
        found,
        key=lambda example: (Path(example.model) != folder, example.folder_variable is None, example.lora is not None),
        default=None,
    )


def for_pipeline(example: Example, pipeline: str) -> Example:
    """The example on a saved pipeline of this class: its prompt, size and steps, with the arguments that class takes.

    Raises:
        ValueError: no example has such a pipeline.
    """
    if pipeline in (example.pipeline, *example.saved_as):
        return example
    for other in EXAMPLES.values():
        if other.pipeline == pipeline:
            return replace(
                other,
                name=example.name,
                model=example.model,
                prompt=example.prompt,
                steps=other.steps and example.steps,
                height=other.height and (example.height or other.height),
                width=other.width and (example.width or other.width),
                folder_variable=example.folder_variable,
                lora=None,
                seed=example.seed,
                warmup=example.warmup,
                dtype=example.dtype,
            )
    known = ", ".join(dict.fromkeys(other.pipeline for other in EXAMPLES.values()))
    raise ValueError(f"the model is a {pipeline}, which no example calls; use one of {known}.")
