"""Where a pipeline's files are on this machine, fetched by one of its ranks."""

import json
import os
from collections.abc import Mapping
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import torch.distributed as dist
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ditmesh.loading.errors import told_in_a_line
from ditmesh.runtime.world import World
from ditmesh.upstream.process_groups import world_store

FOREVER = timedelta(days=30)  # torchrun ends who waits for a rank that died
_fetches = count()


def fetch(source: str | os.PathLike[str], how: Mapping[str, Any]) -> str:
    """The folder of a saved pipeline, which the first rank of each machine downloads while the others wait.

    Args:
        source: a folder, or a hub id.
        how: what diffusers' ``DiffusionPipeline.download`` takes: token, revision, variant and the like.

    Raises:
        ValueError: on all ranks of the machine, why it cannot be had.
    """
    folder = Path(source).expanduser()
    if folder.exists():
        return str(folder)
    world = World.read(os.environ)
    if not dist.is_initialized() or world.ranks_here == 1:
        return _download(str(source), how)
    store: Any = world_store()
    key = f"ditmesh/fetched/{next(_fetches)}/{world.rank - world.local_rank}"
    if world.local_rank == 0:
        told: tuple[str, str] = ("", "rank 0 of this machine ended")
        try:
            told = (_download(str(source), how), "")
        except ValueError as error:
            told = ("", str(error))
        finally:
            store.set(key, json.dumps(told))
    store.wait([key], FOREVER)
    found, why = json.loads(store.get(key))
    if not found:
        raise ValueError(why)
    return found


def _download(hub_id: str, how: Mapping[str, Any]) -> str:
    with told_in_a_line(hub_id):
        return str(DiffusionPipeline.download(hub_id, **how))
