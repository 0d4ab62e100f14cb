"""Everything in the table of deeds done to a tiny transformer, text encoder or VAE, and what it makes then."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import torch
import torch.distributed as dist
from accelerate import cpu_offload, cpu_offload_with_hook
from diffusers import FirstBlockCacheConfig, FlowMatchEulerDiscreteScheduler, FluxPipeline
from diffusers.hooks import apply_group_offloading, apply_layerwise_casting
from peft import LoraConfig
from torch import Tensor
from torchao.quantization import Int8WeightOnlyConfig, quantize_

from ditmesh import ParallelismConfig
from tests.parallel import text_encoders, vaes
from tests.transformers import SHAPES, build, forward
from tests.upstream.test_lora import load, lora

AXES = {  # a layout for each
    "tp": ParallelismConfig(tp_size=2),
    "ulysses": ParallelismConfig(ulysses_size=2),
    "ring": ParallelismConfig(ring_size=2),
    "pp": ParallelismConfig(pp_size=2, num_pipeline_patch=1),
    "cfg": ParallelismConfig(cfg_size=2),
}
CPU = torch.device("cpu")
Made = dict[str, Tensor]


@cache
def weights(seed: int) -> Made:
    return lora(build("flux", SHAPES["odd"], torch.float32)[0], seed)


@dataclass
class Subject:
    """What is enabled, what something is done to, and what that makes."""

    owner: Any
    model: Any
    made: Callable[[], Tensor]


def subject(name: str, column: str) -> Subject:
    """A pipeline whose text encoder or VAE it is done to, or a transformer alone."""
    if column not in EXTRAS:
        # Adapters take long to be put in; a copy does not.
        model, inputs = build("flux", SHAPES["odd"], torch.float32) if name in BARE else copy.deepcopy(adapted())
        return Subject(model, model, lambda: made(model, inputs))
    parts: dict[str, Any] = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    transformer: Any = build("flux", SHAPES["odd"], torch.float32)[0]
    if column == "vae":
        vae = parts["vae"] = vaes.build("kl", torch.float32)
        pipe = FluxPipeline(FlowMatchEulerDiscreteScheduler(), transformer=transformer, **parts)
        work = [("encode", 6, 1), ("decode", 3, 1)]
        return Subject(pipe, vae, lambda: torch.cat([x.flatten() for x in vaes.work(vae, "kl", work, torch.float32)]))
    encoder = parts["text_encoder_2"] = text_encoders.build("Qwen3ForCausalLM")
    pipe = FluxPipeline(FlowMatchEulerDiscreteScheduler(), transformer=transformer, **parts)
    return Subject(pipe, encoder, lambda: text_encoders.outputs(encoder, text_encoders.prompts())[0].clone())


@cache
def adapted() -> tuple[Any, dict[str, Any]]:
    """A transformer with two adapters, one of which is used."""
    model, inputs = build("flux", SHAPES["odd"], torch.float32)
    for number in (1, 2):
        load(model, weights(number), f"adapter{number}")
    model_: Any = model
    model_.set_adapters(["adapter1"], [0.5])
    return model, inputs


def made(model: Any, inputs: dict[str, Any], guided: bool = True) -> Tensor:
    """Two branches of a step, where the model has adapters for images with one of them."""
    if vars(model)["_modules"].get("encoder_hid_proj") is not None:
        draw = torch.Generator().manual_seed(0)
        inputs = inputs | {
            "joint_attention_kwargs": {"ip_adapter_image_embeds": [torch.randn(1, 1, 6, generator=draw)]}
        }
    other = inputs | {"encoder_hidden_states": inputs["encoder_hidden_states"].flip(1)}
    with model.cache_context("cond"):
        first = forward(model, inputs)
    with model.cache_context("uncond"):
        second = forward(model, other)
    return torch.stack([first + 0, second])


def save(model: Any, folder: Path) -> Made:
    if "save_pretrained" not in vars(model):  # not enabled: transformers lets the first rank alone write
        folder /= str(dist.get_rank())
        vars(model)["should_save_on_this_rank"] = lambda is_main_process: is_main_process
    model.save_pretrained(folder)
    again = type(model).from_pretrained(folder)
    return {f"saved {name}": x for name, x in again.state_dict().items()} | model.state_dict()


def load_lora(model: Any, folder: Path) -> None:
    load(model, weights(3), "adapter3")
    model.set_adapters(["adapter1", "adapter3"], [0.5, 0.7])


def adapters(model: Any, folder: Path) -> None:
    model.disable_lora()
    model.enable_lora()
    model.set_adapters(["adapter1", "adapter2"], [0.2, -0.4])
    model.delete_adapters(["adapter1"])


def fuse(model: Any, folder: Path) -> None:
    model.fuse_lora(lora_scale=0.5)


def adapt_images(model: Any, folder: Path) -> None:
    """What ``load_ip_adapter`` of a pipeline ends in."""
    draw, width = torch.Generator().manual_seed(5), model.inner_dim
    sizes = {
        f"{i}.to_{x}_ip.{p}": (width, 24)[: 2 - (p == "bias")]
        for i in range(2)
        for x in "kv"
        for p in ("weight", "bias")
    }
    text = model.config.joint_attention_dim
    sizes = {name: (width, text) if name.endswith("weight") else (width,) for name in sizes}
    image = {"proj.weight": (4 * text, 6), "proj.bias": (4 * text,), "norm.weight": (text,), "norm.bias": (text,)}
    parts = {"image_proj": image, "ip_adapter": sizes}
    drawn = {
        key: {name: torch.randn(size, generator=draw) * 0.3 for name, size in of.items()} for key, of in parts.items()
    }
    model._load_ip_adapter_weights([drawn], low_cpu_mem_usage=False)


def choose_kernel(model: Any, folder: Path) -> None:
    model.set_attention_backend("native")
    model.reset_attention_backend()
    model.set_attention_backend("_native_math")
    diffusers.models.attention_dispatch._AttentionBackendRegistry.set_active_backend(
        diffusers.models.attention_dispatch.AttentionBackendName.NATIVE
    )


def cast(model: Any, folder: Path) -> None:
    model.to(torch.bfloat16).to(torch.float32).float().to("cpu").requires_grad_(True).requires_grad_(
        False
    ).train().eval()


def compile_it(model: Any, folder: Path) -> None:
    torch.compiler.reset()
    model.compile(backend="eager")


def parallelize(model: Any, folder: Path) -> None:
    """What diffusers leaves where there is an accelerator, before; the method itself, after."""
    if "enable_parallelism" in vars(model):
        model.enable_parallelism(config=None)
    vars(model)["_parallel_config"] = object()


def quantize(model: Any, folder: Path) -> None:
    quantize_(model, Int8WeightOnlyConfig())


def offload(model: Any, folder: Path) -> None:
    _, hook = cpu_offload_with_hook(model, CPU)
    hook.offload()


# By the first word of code of a row.
DEEDS: dict[str, Callable[[Any, Path], Any]] = {
    "state_dict": save,
    "load_state_dict": lambda model, _: model.load_state_dict(model.state_dict()),
    "load_lora_weights": load_lora,
    "set_adapters": adapters,
    "fuse_lora": fuse,
    "load_ip_adapter": adapt_images,
    "set_attn_processor": lambda model, _: model.set_attn_processor(dict(model.attn_processors)),
    "set_attention_backend": choose_kernel,
    "fuse_qkv_projections": lambda model, _: model.fuse_qkv_projections(),
    "to": cast,
    "enable_gradient_checkpointing": lambda model, _: model.enable_gradient_checkpointing(),
    "compile": compile_it,
    "copy.deepcopy": lambda model, _: copy.deepcopy(model),
    "transformer.enable_cache": lambda model, _: model.enable_cache(FirstBlockCacheConfig(threshold=1e-9)),
    "enable_parallelism": parallelize,
    "quantized weights": quantize,
    "enable_group_offload": lambda model, _: model.enable_group_offload(CPU, CPU, num_blocks_per_group=2),
    "enable_layerwise_casting": lambda model, _: model.enable_layerwise_casting(torch.bfloat16, torch.float32),
    "enable_model_cpu_offload": offload,
    "enable_sequential_cpu_offload": lambda model, _: cpu_offload(model, CPU),
}
OF_DIFFUSERS = ("set_attn_processor", "fuse_qkv_projections")  # which text encoders do not have
# Of a pipeline's own; tests of pipelines have them.
ELSEWHERE = {"pipe.transformer = other", "vae.enable_tiling"}

# Adapters are no part of these: fused projections and fused weights drop them or are made for plain linears.
BARE = {"fuse_qkv_projections", "quantized weights", "state_dict", "load_ip_adapter"}


WEIGHTS_ALONE = ("load_ip_adapter", "set_adapters", "fuse_lora", "transformer.enable_cache", "enable_parallelism")
EXTRAS: dict[str, dict[str, Callable[[Any, Path], Any]]] = {
    "text encoder": {name: deed for name, deed in DEEDS.items() if name not in (*WEIGHTS_ALONE, *OF_DIFFUSERS)}
    | {
        "load_lora_weights": lambda model, _: model.add_adapter(LoraConfig(target_modules=["q_proj"])),
        "set_attention_backend": lambda model, _: model.set_attn_implementation("eager"),
        "enable_gradient_checkpointing": lambda model, _: model.gradient_checkpointing_enable(),
        "resize_token_embeddings": lambda model, _: model.resize_token_embeddings(110),
        "enable_group_offload": lambda model, _: apply_group_offloading(model, CPU, CPU, "leaf_level"),
        "enable_layerwise_casting": lambda model, _: apply_layerwise_casting(model, torch.bfloat16, torch.float32),
    },
    "vae": {name: deed for name, deed in DEEDS.items() if name not in WEIGHTS_ALONE}
    | {"load_lora_weights": lambda model, _: model.add_adapter(LoraConfig(target_modules=["conv1", "to_k"]))},
}
