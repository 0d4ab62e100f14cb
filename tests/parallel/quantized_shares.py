"""What ranks run for the tests of quantized weights that are whole while they are used alone."""

from dataclasses import replace

import torch
from peft import LoraConfig
from torch import Tensor

import ditmesh
from ditmesh import ParallelismConfig
from tests.parallel.quantized import SHARES, differing, flat, parts, run, size, transformer
from tests.quantized_kinds import quantize
from tests.transformers import relative_error
from tests.upstream.test_lora import load, lora


def changed(layout: str, kinds: list[str]) -> list[str]:
    """The kinds whose picture changes by a bit where their weights are shared out, or which are not given back."""
    config, wrong = ParallelismConfig.parse(layout), []
    config = replace(config, num_pipeline_patch=1) if config.pp_size > 1 else config
    for kind in kinds:
        model, inputs = transformer()
        state, made, held = flat(quantize(model, kind).state_dict()), [], []
        for shares in (False, True):
            ditmesh.enable_cache(model, parallelism_config=replace(config, shard_weights=shares))
            made.append(torch.stack([run(model, inputs) for _ in range(2)]))
            held.append(size(parts(model)))
            if differing(state, flat(model.state_dict())):
                wrong.append(f"{kind}: saved others")
            ditmesh.disable_cache(model)
        if not torch.equal(*made) or held[1] > 0.75 * held[0] or differing(state, flat(model.state_dict())):
            wrong.append(f"{kind}: {relative_error(made[1], made[0])}, {held[1]} of {held[0]} bytes")
    return wrong


def adapted() -> list[str]:
    """LoRA weights around them: what peft can do to them in one process it can do here."""
    wrong, weights = [], lora(transformer()[0], 1)
    for kind in ("torchao int8", "bitsandbytes nf4", "quanto int8"):
        made: list[list[Tensor]] = []
        for config in (None, SHARES):
            model, inputs = transformer()
            quantize(model, kind)
            if config is not None:
                ditmesh.enable_cache(model, parallelism_config=config)
            load(model, weights, "a")
            made.append([run(model, inputs)])
            if kind == "quanto int8":  # which alone peft fuses into here
                model.fuse_lora()
                made[-1].append(run(model, inputs))
                model.unfuse_lora()
            model.unload_lora()
            model.add_adapter(LoraConfig(r=2, target_modules=["to_q"], use_dora=True, init_lora_weights=True))
            made[-1].append(run(model, inputs))
        wrong += [f"{kind}: {apart}" for x, y in zip(*made, strict=True) if (apart := relative_error(y, x)) > 1e-5]
    return wrong
