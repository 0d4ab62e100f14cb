"""Let diffusers and transformers build models whose weights nobody has read yet."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import RLock, get_ident
from typing import Any, Self
from unittest.mock import patch

import safetensors.torch
from diffusers.models.modeling_utils import ModelMixin
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel, modeling_utils

from ditmesh.upstream.unread import Unread, Weight, weights_of

# Buffers that older checkpoints hold and newer models work out.
WORKED_OUT = ("position_ids", "rotary_emb.inv_freq")

_one_at_a_time = RLock()


class UnreadFile:
    """An opened safetensors file that gives out unread tensors: what ``safetensors.safe_open`` is to the libraries."""

    def __init__(self, file: Any, framework: str = "pt", device: Any = "cpu", backend: Any = None):
        self.file = str(file)
        try:
            self._opened: Any = safe_open(self.file, framework="pt")
        except SafetensorError as error:
            raise OSError(f"{self.file} is damaged, or not whole: {error}") from error

    def keys(self) -> list[str]:
        return list(self._opened.keys())

    def metadata(self) -> Mapping[str, str] | None:
        return self._opened.metadata()

    def get_tensor(self, key: str) -> Tensor:
        return Unread.of(self.file, key, self._opened.get_tensor(key).to("meta"))

    def get_slice(self, key: str) -> "UnreadSlice":
        return UnreadSlice(self, self._opened.get_slice(key), key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass


class UnreadSlice:
    """A tensor of such a file, to be indexed."""

    def __init__(self, opened: UnreadFile, header: Any, key: str):
        self._opened, self._key = opened, key
        self.get_shape, self.get_dtype = header.get_shape, header.get_dtype

    def __getitem__(self, index: Any) -> Tensor:
        return self._opened.get_tensor(self._key)[index]


@contextmanager
def unread_files() -> Iterator[None]:
    """What this thread loads inside is unread, until somebody needs the numbers. Others that want that wait.

    The libraries take no reader of files, so what they read with stands aside meanwhile: it stays what it was for all
    other threads.
    """
    here = get_ident()

    def open_all(file: Any, device: Any = "cpu") -> dict[str, Tensor]:
        if get_ident() != here:
            return load_file(file, device=device)
        opened = UnreadFile(file)
        return {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118

    def open_file(*args: Any, **kwargs: Any) -> Any:
        return (UnreadFile if get_ident() == here else safe_open)(*args, **kwargs)

    with (
        _one_at_a_time,
        patch.object(safetensors.torch, "load_file", open_all),
        patch.object(modeling_utils, "safe_open", open_file),
    ):
        yield


def check_complete(models: Mapping[str, nn.Module]) -> None:
    """Refuse models whose files hold other weights than they have.

    Those that came from somewhere else pass, and those that a quantizer makes, whose files may hold parts of weights.

    Args:
        models: all that were loaded together, since one may have weights of another's file.

    Raises:
        ValueError: a weight no file has, or a tensor of a file that no model has a use for.
    """
    models = {name: model for name, model in models.items() if vars(model).get("hf_quantizer") is None}
    states = {name: model.state_dict(keep_vars=True) for name, model in models.items()}
    used = {name: set[Weight]().union(*map(weights_of, state.values())) for name, state in states.items()}
    for name, model in models.items():
        missing = [key for key, x in states[name].items() if isinstance(x, Tensor) and not weights_of(x)]
        if used[name] and missing:
            files = sorted({weight.file for weight in used[name]})
            raise ValueError(
                f"{name} ({type(model).__name__}) needs {missing[0]}, which is missing from "
                f"{_files(files, missing[0])}; is its config another model's? If not, download or save it again."
            )
    for name, model in models.items():
        for file in sorted({weight.file for weight in used[name]}):
            for key in UnreadFile(file).keys():  # noqa: SIM118
                if not any(Weight(file, key) in own for own in used.values()) and not _is_known(
                    model, key, states[name]
                ):
                    raise ValueError(
                        f"{file} holds {key}, which {name} ({type(model).__name__}) has no place for; is its config "
                        f"another model's?"
                    )


def _files(files: list[str], key: str) -> str:
    """Where a weight is missing: in one file, or in the many that an index lists."""
    if len(files) == 1:
        return files[0]
    folder = Path(files[0]).parent
    maps = [json.loads(index.read_text()).get("weight_map", {}) for index in folder.glob("*.index.json")]
    listed = [f" (its index names {file} for it)" for file in (listed.get(key) for listed in maps) if file]
    return f"the {len(files)} files of {folder}{''.join(listed)}"


def _is_known(model: nn.Module, key: str, state: Mapping[str, Any]) -> bool:
    """Whether a tensor is there twice, is worked out, or is one that its library leaves unused as well."""
    patterns = (
        (model._keys_to_ignore_on_load_unexpected or ()) if isinstance(model, ModelMixin | PreTrainedModel) else ()
    )
    return key in state or key.endswith(WORKED_OUT) or any(re.search(pattern, key) for pattern in patterns)
