"""Tiny ControlNets of every sheet, each with its transformer, and what the ranks run on the two."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
import torch.nn.functional as F
from diffusers.models import controlnets
from diffusers.models.controlnets import controlnet_cosmos
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

import ditmesh
from ditmesh import ParallelismConfig
from tests.cases import CASES
from tests.cases.common import HEAD_DIM, HEADS, TEXT_DIM
from tests.transformers import InFloat64, Inputs

WIDTH = HEADS * HEAD_DIM
Shape = tuple[int, tuple[int, int], int, bool]


@dataclass
class Pair:
    """A ControlNet and its transformer, a call of each, and how the one's residuals are passed to the other."""

    transformer: nn.Module
    controlnet: nn.Module
    inputs: Inputs
    hints: Inputs  # the ControlNet's inputs
    residuals: Callable[[Any], Inputs]

    @property
    def pipe(self) -> Any:
        return SimpleNamespace(components={"transformer": self.transformer, "controlnet": self.controlnet})


def flux(shape: Shape, hint: bool = False, **config: Any) -> Pair:
    """One block of either kind for two; the union one takes a mode, XLabs' a picture of pixels."""
    transformer, inputs = case("flux", shape)
    batch, (height, width), *_ = shape
    if hint:
        config |= {"conditioning_embedding_channels": 1, "patch_size": 2}
    model = diffusers.FluxControlNetModel(
        in_channels=4, attention_head_dim=HEAD_DIM, num_attention_heads=HEADS, joint_attention_dim=TEXT_DIM,
        pooled_projection_dim=16, axes_dims_rope=[2, 2, 4],
        **{"num_layers": 1, "num_single_layers": 1, "guidance_embeds": True} | config,
    )  # fmt: skip
    hints = dict(inputs) | {
        "controlnet_cond": torch.randn(batch, 3, 16 * height, 16 * width)
        if hint
        else torch.randn(batch, height * width, 4)
    }
    if "num_mode" in config:
        hints["controlnet_mode"] = torch.arange(batch)[:, None] % config["num_mode"]
        hints["txt_ids"] = torch.randn(hints["txt_ids"].shape)  # the mode's token stands where the first one does
    if not config.get("guidance_embeds", True):
        del hints["guidance"]
    names = ("controlnet_block_samples", "controlnet_single_block_samples")
    return Pair(transformer, model, inputs, hints, lambda out: dict(zip(names, out, strict=True)))


def case(name: str, shape: Shape, **config: Any) -> tuple[nn.Module, dict[str, Any]]:
    """A transformer and its inputs without residuals, which are its ControlNet's to make."""
    model, inputs = CASES[name].build(*shape, **config)
    return model, {key: x for key, x in inputs.items() if "controlnet" not in key}


def qwen_image(shape: Shape, extra_condition_channels: int = 0) -> Pair:
    transformer, inputs = case("qwen_image", shape)
    model = diffusers.QwenImageControlNetModel(
        in_channels=8, num_layers=1, attention_head_dim=HEAD_DIM, num_attention_heads=HEADS,
        joint_attention_dim=TEXT_DIM, axes_dims_rope=(4, 2, 2), extra_condition_channels=extra_condition_channels,
    )  # fmt: skip
    condition = torch.randn(*inputs["hidden_states"].shape[:2], 8 + extra_condition_channels)
    hints = inputs | {"controlnet_cond": condition}
    return Pair(transformer, model, inputs, hints, lambda out: {"controlnet_block_samples": out})


def sd3(shape: Shape, embedded: bool = False, **config: Any) -> Pair:
    """3.5's takes patches that are embedded already, and no text."""
    transformer, inputs = case("sd3", shape)
    if embedded:
        config |= {"joint_attention_dim": None, "use_pos_embed": False}
    model = diffusers.SD3ControlNetModel(
        sample_size=16, patch_size=2, in_channels=4, out_channels=4, attention_head_dim=HEAD_DIM,
        num_attention_heads=HEADS, caption_projection_dim=WIDTH, pooled_projection_dim=16, pos_embed_max_size=12,
        extra_conditioning_channels=1, **{"num_layers": 2, "joint_attention_dim": TEXT_DIM} | config,
    )  # fmt: skip
    batch, (height, width), *_ = shape
    hints = inputs | {"controlnet_cond": torch.randn(batch, 5, 2 * height, 2 * width)}
    if embedded:
        del hints["encoder_hidden_states"]
        hints["hidden_states"] = torch.randn(batch, height * width, WIDTH)
    return Pair(transformer, model, inputs, hints, lambda out: {"block_controlnet_hidden_states": out[0]})


def hunyuan_dit(shape: Shape) -> Pair:
    transformer, inputs = case("hunyuan_dit", shape)
    config = {name: x for name, x in transformer.config.items() if name not in ("num_layers", "norm_type")}
    config = {name: x for name, x in config.items() if not name.startswith("_") and name != "learn_sigma"}
    config.pop("cross_attention_dim_t5")
    model = diffusers.HunyuanDiT2DControlNetModel(**config, cross_attention_dim_t5=16, transformer_num_layers=4)
    batch, (height, width), *_ = shape
    hints = inputs | {"controlnet_cond": torch.randn(batch, 4, 2 * height, 2 * width)}
    return Pair(transformer, model, inputs, hints, lambda out: {"controlnet_block_samples": list(out[0])})


class Transforms:
    """What Cosmos takes from torchvision, of which the tests do without: a mask of the right size stays as it is."""

    InterpolationMode = SimpleNamespace(NEAREST="nearest")
    functional = SimpleNamespace(resize=lambda mask, size, interpolation: F.interpolate(mask, size, mode=interpolation))


def cosmos(shape: Shape, per_frame: bool = False) -> Pair:
    vars(controlnet_cosmos).setdefault("transforms", Transforms)
    config: dict[str, Any] = {"extra_pos_embed_type": None} if per_frame else {}
    transformer, inputs = case("cosmos", shape, per_frame=per_frame, controlnet_block_every_n=2, **config)
    model = diffusers.CosmosControlNetModel(
        n_controlnet_blocks=2, in_channels=8, latent_channels=6, model_channels=16 * HEADS, num_attention_heads=HEADS,
        attention_head_dim=16, mlp_ratio=2.0, text_embed_dim=TEXT_DIM, adaln_lora_dim=10, max_size=(4, 24, 24),
        extra_pos_embed_type=None if per_frame else "learnable",
    )  # fmt: skip
    latents = inputs["hidden_states"]
    batch, _, frames, height, width = latents.shape
    hints = {name: inputs[name] for name in ("timestep", "encoder_hidden_states", "attention_mask", "fps")} | {
        "latents": latents,
        "controls_latents": torch.randn(latents.shape),
        "condition_mask": torch.ones(batch, 1, frames, height, width),
        "padding_mask": torch.zeros(1, 1, height, width),
        "conditioning_scale": [0.5, 0.75],
    }
    return Pair(transformer, model, inputs, hints, lambda out: {"block_controlnet_hidden_states": out[0]})


def z_image(shape: Shape, add_control_noise_refiner: str | None = None) -> Pair:
    """1.0 refines its condition alone, 2.0 and 2.1 beside the picture, 2.1 with the blocks it uses after that again."""
    transformer, inputs = case("z_image", shape)
    model = diffusers.ZImageControlNetModel(
        control_layers_places=[0, 1], control_refiner_layers_places=[0, 1], control_in_dim=16, dim=WIDTH,
        add_control_noise_refiner=add_control_noise_refiner, n_refiner_layers=2, n_heads=HEADS, n_kv_heads=HEADS,
    )  # fmt: skip
    model = diffusers.ZImageControlNetModel.from_transformer(model, transformer)
    hints = inputs | {"control_context": [torch.randn(picture.shape) for picture in inputs["x"]]}
    return Pair(transformer, model, inputs, hints, lambda out: {"controlnet_block_samples": out})


MAKERS: dict[str, tuple[Callable[..., Pair], dict[str, Any]]] = {
    "flux": (flux, {}),
    "flux:union": (flux, {"num_mode": 3, "guidance_embeds": False}),
    "flux:hint": (flux, {"hint": True, "num_single_layers": 0}),
    "flux:single": (flux, {"num_layers": 0}),
    "qwen_image": (qwen_image, {}),
    "qwen_image:inpaint": (qwen_image, {"extra_condition_channels": 4}),
    "sd3": (sd3, {}),
    "sd3:medium": (sd3, {"dual_attention_layers": (0,), "qk_norm": "rms_norm"}),
    "sd3:large": (sd3, {"embedded": True}),
    "hunyuan_dit": (hunyuan_dit, {}),
    "cosmos": (cosmos, {}),
    "cosmos:per_frame": (cosmos, {"per_frame": True}),
    "z_image": (z_image, {}),
    "z_image:2.0": (z_image, {"add_control_noise_refiner": "control_noise_refiner"}),
    "z_image:2.1": (z_image, {"add_control_noise_refiner": "control_layers"}),
}


def build(name: str, shape: Shape, dtype: torch.dtype) -> Pair:
    """A pair and its inputs, the same on every rank."""
    torch.manual_seed(0)
    maker, config = MAKERS[name]
    pair = maker(shape, **config)
    for model in (pair.controlnet, pair.transformer):
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.2)
        model.to(dtype).eval().requires_grad_(False)
    inputs, hints = tree_map(
        lambda x: x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x, (pair.inputs, pair.hints)
    )
    return replace(pair, inputs=inputs, hints=hints)


def several(name: str, shape: Shape) -> Pair:
    """Two ControlNets whose residuals are summed, or one that takes two conditions."""
    pairs = [build(name, shape, torch.float64) for _ in range(2)]
    nets = [pair.controlnet for pair in pairs]
    wrapper = {
        "flux:union": controlnets.FluxMultiControlNetModel,
        "sd3": controlnets.SD3MultiControlNetModel,
        "qwen_image": controlnets.QwenImageMultiControlNetModel,
        "hunyuan_dit": controlnets.HunyuanDiT2DMultiControlNetModel,
    }[name]
    hints = dict(pairs[0].hints)
    hints["controlnet_cond"] = [hints["controlnet_cond"], torch.randn_like(hints["controlnet_cond"])]
    hints["conditioning_scale"] = [0.5, 0.75]
    if "controlnet_mode" in hints:
        hints["controlnet_mode"] = [hints["controlnet_mode"][:, 0], (hints["controlnet_mode"][:, 0] + 1) % 3]
    for parameter in nets[1].parameters():
        nn.init.normal_(parameter, std=0.2)
    return replace(pairs[0], controlnet=wrapper(nets[:1] if name == "qwen_image" else nets), hints=hints)


def run(pair: Pair) -> tuple[Tensor, Tensor]:
    """What the ControlNet gives, flat, and what the transformer makes of it."""
    in_float64 = any(parameter.dtype == torch.float64 for parameter in pair.transformer.parameters())
    takes_dict = "x" not in pair.inputs  # Z-Image's ControlNet has no return_dict
    with InFloat64() if in_float64 else nullcontext():
        given = pair.controlnet(**pair.hints, **({"return_dict": False} if takes_dict else {}))
        outputs = pair.transformer(**pair.inputs | pair.residuals(given), return_dict=False)
    return flat(given), flat(outputs)


def flat(outputs: Any) -> Tensor:
    return torch.cat([x.flatten() for x in tree_leaves(outputs) if x is not None])


def enable(pair: Pair, layout: str, *extras: Any) -> None:
    sizes = ParallelismConfig.parse(layout).sizes
    parallelism = ParallelismConfig(
        **{f"{axis}_size": size for axis, size in sizes.items()}, extra_parallel_modules=extras
    )
    ditmesh.enable_cache(pair.pipe, parallelism_config=parallelism)


def parallel(name: str, layout: str, shape: Shape, dtype: torch.dtype, named: bool) -> tuple[Tensor, Tensor]:
    """What a rank of a layout computes, with the ControlNet parallelized too if it is ``named``."""
    pair = build(name, shape, dtype)
    enable(pair, layout, *(["controlnet"] if named else []))
    return run(pair)
