"""What ranks read of a checkpoint, beside a model that was loaded whole and then shared out."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from diffusers import DiffusionPipeline
from torch import Tensor, nn

import ditmesh
from ditmesh import ParallelismConfig
from ditmesh.api import kept_whole
from ditmesh.loading.reading import nothing_read, read_in
from ditmesh.parallel.text_encoder import apply_text_encoder_parallel
from ditmesh.pipeline import components
from ditmesh.runtime.mesh import build_mesh
from ditmesh.upstream.checkpoints import check_complete

CPU = torch.device("cpu")


def tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def assert_same(lean: nn.Module, whole: nn.Module) -> None:
    """Bit for bit, in the same form, of the same classes."""
    got, want = dict(tensors(lean)), dict(tensors(whole))
    assert got.keys() == want.keys()
    for name, x in want.items():
        mine = got[name]
        assert (type(mine), mine.shape, mine.stride()) == (type(x), x.shape, x.stride()), name
        assert (mine.dtype, mine.device, mine.requires_grad) == (x.dtype, x.device, x.requires_grad), name
        assert torch.equal(mine, x), name


def load(kind: Any, folder: Path, dtype: torch.dtype) -> nn.Module:
    with nothing_read():
        model = kind.from_pretrained(folder, dtype=dtype)
    check_complete({"model": model})
    return model


def transformers_are_same(kind: Any, folder: Path, layouts: dict[str, torch.dtype]) -> None:
    """A transformer on several layouts of this world, each with its number format; then as it was before."""
    for layout, dtype in layouts.items():
        config = ParallelismConfig.parse(layout)
        config = replace(config, num_pipeline_patch=1) if config.pp_size > 1 else config
        whole, lean = kind.from_pretrained(folder, dtype=dtype), load(kind, folder, dtype)
        ditmesh.enable_cache(whole, parallelism_config=config)
        with torch.no_grad():
            ditmesh.enable_cache(lean, parallelism_config=config)
        read_in([lean], CPU)
        assert_same(lean, whole)
        ditmesh.disable_cache(lean)
        assert_same(lean, kind.from_pretrained(folder, dtype=dtype))
        ditmesh.disable_cache(whole)


def text_encoders_are_same(kind: Any, folder: Path, dtype: torch.dtype) -> None:
    """A text encoder, shared by all ranks."""
    world = dist.get_world_size()
    mesh = build_mesh(ParallelismConfig(tp_size=world), "cpu")["tp"]
    models = [kind.from_pretrained(folder, dtype=dtype), load(kind, folder, dtype)]
    with ExitStack() as undo, torch.no_grad():
        for model in models:
            apply_text_encoder_parallel(model, mesh, undo)
        read_in(models[1:], CPU)
        assert_same(models[1], models[0])


def pipelines_are_same(folder: Path, config: ParallelismConfig, lora: Path | None = None, **kwargs: Any) -> list[str]:
    """A pipeline that is loaded for a layout, and one that is loaded whole and then enabled."""
    whole = DiffusionPipeline.from_pretrained(folder, **kwargs)
    if lora is not None:
        whole.load_lora_weights(lora)
    ditmesh.enable_cache(whole, parallelism_config=config)
    lean = ditmesh.from_pretrained(folder, parallelism_config=config, lora=lora, **kwargs)
    assert type(lean) is type(whole)
    for name, module in components(whole).items():
        assert_same(components(lean)[name], module)
    kept = kept_whole(lean)
    assert kept == kept_whole(whole)
    ditmesh.disable_cache(lean)
    ditmesh.disable_cache(whole)
    return kept


def drawn(folder: Path, call: dict[str, Any], config: ParallelismConfig | None, **kwargs: Any) -> np.ndarray:
    pipe = ditmesh.from_pretrained(folder, parallelism_config=config, **kwargs)
    pipe.set_progress_bar_config(disable=True)
    return np.asarray(pipe(**call, generator=torch.Generator().manual_seed(0), output_type="np")[0])


def refused(folder: Path, config: ParallelismConfig, **kwargs: Any) -> str:
    with pytest.raises(ValueError, match=r".") as told:
        ditmesh.from_pretrained(folder, parallelism_config=config, **kwargs)
    ditmesh.disable_cache(ditmesh.from_pretrained(folder, parallelism_config=config))
    return str(told.value)
