"""Build a pipeline whose weights nobody has read, and read what is left of them when it has been shared out."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging
from torch import Tensor, nn

from ditmesh.loading.errors import told_in_a_line
from ditmesh.upstream.checkpoints import check_complete, unread_files
from ditmesh.upstream.unread import fill, is_unread


@contextmanager
def nothing_read() -> Iterator[None]:
    """What diffusers and transformers load inside is not read from its files. Share it out, and then ``read_in``.

    No other thread may load anything meanwhile.
    """
    with torch.no_grad(), unread_files():
        yield


def load_pipeline(kind: Any, source: str, allow_pickle: bool, **kwargs: Any) -> Any:
    """A pipeline of a folder. Its files are checked, but for the numbers in them.

    Raises:
        ValueError: a file is missing, cut off, of another model, or a pickle although none is allowed.
    """
    if not allow_pickle:
        kwargs["use_safetensors"] = True
    try:
        with told_in_a_line(source):
            pipe = kind.from_pretrained(source, **kwargs)
    except ValueError as error:
        if not allow_pickle and (pickles := sorted(Path(source).glob("*/*.bin"))):
            raise ValueError(
                f"{error} Pickles such as {pickles[0]} are not read, since they run what they hold; "
                f"convert them to safetensors, or pass allow_pickle=True if you trust them."
            ) from error
        raise
    check_complete(modules_of(pipe))
    return pipe


@torch.no_grad()
def read_in(modules: Iterable[nn.Module], device: torch.device, show: bool = False) -> None:
    """Read what this rank keeps of each weight, one at a time, straight to a device.

    Args:
        modules: those that were loaded with ``nothing_read``; others stay as they are.
        device: where the weights go.
        show: whether a bar shows how far it is, in bytes.
    """
    unread = {id(x): x for module in modules for x in _tensors(module) if is_unread(x)}
    size = sum(x.numel() * x.element_size() for x in unread.values())
    with logging.tqdm(total=size, unit="B", unit_scale=True, desc="Reading weights", disable=not show) as bar:
        for x in unread.values():
            nbytes = x.numel() * x.element_size()
            fill(x, device)
            bar.update(nbytes)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def modules_of(pipe: Any) -> dict[str, nn.Module]:
    """The modules of a pipeline by name, those that it lists as components alone."""
    return {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
