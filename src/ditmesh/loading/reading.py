"""Build a pipeline whose weights nobody has read, and read what is left of them when it has been shared out."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging
from torch import Tensor, nn

from ditmesh.loading.errors import told_in_a_line
from ditmesh.pipeline import components
from ditmesh.upstream.checkpoints import check_complete, unread_files
from ditmesh.upstream.unread import fill, is_unread

PICKLES = (".bin", ".pt", ".pth", ".ckpt")


@contextmanager
def nothing_read() -> Iterator[None]:
    """What diffusers and transformers load inside is not read from its files. Share it out, and then ``read_in``."""
    with torch.no_grad(), unread_files():
        yield


def load_pipeline(kind: Any, source: str, pickles: bool, switch: str = "allow_pickle=True", **kwargs: Any) -> Any:
    """A pipeline of a folder or hub id. Its files are checked, but for the numbers in them.

    Args:
        kind: the pipeline's class.
        source: the folder or hub id.
        pickles: whether weights may be read from pickles.
        switch: how users allow it, for errors.
        kwargs: what ``from_pretrained`` takes besides.

    Raises:
        ValueError: a file is missing, cut off, of another model, or a pickle although none is allowed.
    """
    with told_in_a_line(source), safetensors_alone(Path(source), pickles, switch) as files:
        pipe = kind.from_pretrained(source, **kwargs | files)
    check_complete(components(pipe))
    return pipe


@contextmanager
def safetensors_alone(source: Path, pickles: bool, switch: str) -> Iterator[dict[str, bool]]:
    """What ``from_pretrained`` has to be told, so that it reads no pickles unless they are allowed.

    Raises:
        OSError: it found no other weights.
    """
    try:
        yield {} if pickles else {"use_safetensors": True}
    except OSError as error:
        found = [] if pickles else sorted(file for end in PICKLES for file in source.rglob(f"*{end}"))
        if not found:
            raise
        raise OSError(
            f"its weights are pickles such as {found[0]}, which run what they hold and are not read; convert them "
            f"to safetensors, or pass {switch} if you trust them"
        ) from error


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
