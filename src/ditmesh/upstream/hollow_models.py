"""Models of diffusers and transformers made of their configurations alone, with hollow weights."""

from collections.abc import Mapping
from typing import Any

import diffusers
import torch
import transformers
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers.initialization import no_init_weights

from ditmesh.upstream.hollow import hollow_out


def class_of(library: str, name: str) -> Any:
    """A class of diffusers or transformers, or of the folder of one of diffusers' pipelines; None if there is none."""
    homes = {"diffusers": diffusers, "transformers": transformers}
    return getattr(homes.get(library) or getattr(diffusers.pipelines, library, None), name, None)


def build_hollow(kind: Any, config: Mapping[str, Any], dtype: torch.dtype) -> nn.Module:
    """A model of a class of either library, in evaluation mode, as ``from_pretrained`` makes it with this dtype."""
    # Without buffers and tables, whose numbers a model may read. Parameters take no memory that nobody writes to.
    with init_empty_weights(include_buffers=False), no_init_weights():
        if issubclass(kind, transformers.PreTrainedModel):
            configuration: Any = kind.config_class
            made: Any = kind(configuration.from_dict(dict(config)))
            kept = made._keep_in_fp32_modules_strict or ()
            if dtype == torch.float16:
                kept = {*kept, *(made._keep_in_fp32_modules or ())}
        else:
            made = kind.from_config(dict(config))
            kept = kind._keep_in_fp32_modules or ()

    if isinstance(made, transformers.PreTrainedModel):
        made.tie_weights()

    def dtype_of(name: str, x: Tensor) -> torch.dtype:
        if not x.is_floating_point():
            return x.dtype
        is_kept = dtype.itemsize < 4 and any(part in kept for part in name.split("."))
        return torch.float32 if is_kept else dtype

    hollow_out(made, dtype_of)
    return made.eval().requires_grad_(False)
