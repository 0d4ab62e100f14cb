"""Tiny transformers of every sheet with inputs of many shapes, and what the ranks run on them."""

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

import ditmesh
from ditmesh import ParallelismConfig
from ditmesh.collectives import CommunicationCounter

Inputs = dict[str, Any]
HEADS, HEAD_DIM, TEXT_DIM = 8, 8, 24


def flux(batch: int, side: tuple[int, int], text: int, masked: bool) -> tuple[nn.Module, Inputs]:
    model = diffusers.FluxTransformer2DModel(
        in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=HEAD_DIM, num_attention_heads=HEADS,
        joint_attention_dim=TEXT_DIM, pooled_projection_dim=16, guidance_embeds=True, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip
    return model, {
        "hidden_states": torch.randn(batch, side[0] * side[1], 4),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "pooled_projections": torch.randn(batch, 16),
        "timestep": torch.full((batch,), 0.5),
        "guidance": torch.full((batch,), 3.5),
        "img_ids": positions(side, 3),
        "txt_ids": torch.zeros(text, 3),
    }


def flux2(
    batch: int, side: tuple[int, int], text: int, masked: bool, mlp_ratio: float = 3.0
) -> tuple[nn.Module, Inputs]:
    model = diffusers.Flux2Transformer2DModel(
        in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=HEAD_DIM, num_attention_heads=HEADS,
        joint_attention_dim=TEXT_DIM, timestep_guidance_channels=16, mlp_ratio=mlp_ratio, axes_dims_rope=(2, 2, 2, 2),
    )  # fmt: skip
    return model, {
        "hidden_states": torch.randn(batch, side[0] * side[1], 4),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "timestep": torch.full((batch,), 0.5),
        "guidance": torch.full((batch,), 4.0),
        "img_ids": positions(side, 4)[None].expand(batch, -1, -1),
        "txt_ids": torch.zeros(batch, text, 4),
    }


def qwen_image(batch: int, side: tuple[int, int], text: int, masked: bool, **config: Any) -> tuple[nn.Module, Inputs]:
    model = diffusers.QwenImageTransformer2DModel(
        in_channels=8, out_channels=2, num_layers=2, attention_head_dim=HEAD_DIM, num_attention_heads=HEADS,
        joint_attention_dim=TEXT_DIM, axes_dims_rope=(4, 2, 2), **config,
    )  # fmt: skip
    mask = None
    if masked:  # prompts of different length: each sample pads another number of tokens
        mask = torch.arange(text)[None] < torch.tensor([text - 1 - 3 * i for i in range(batch)])[:, None]
    shapes = [(1, *side)] + ([(1, 2, 3)] if config.get("zero_cond_t") else [])
    tokens = sum(frames * height * width for frames, height, width in shapes)
    return model, {
        "hidden_states": torch.randn(batch, tokens, 8),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "encoder_hidden_states_mask": mask,
        "timestep": torch.full((batch,), 0.5),
        "img_shapes": [shapes] * batch,
    }


def wan(
    batch: int, side: tuple[int, int], text: int, masked: bool, per_token: bool = False
) -> tuple[nn.Module, Inputs]:
    model = diffusers.WanTransformer3DModel(
        num_attention_heads=HEADS, attention_head_dim=HEAD_DIM, in_channels=4, out_channels=4, text_dim=TEXT_DIM,
        freq_dim=16, ffn_dim=50, num_layers=2, rope_max_seq_len=32,
    )  # fmt: skip
    tokens = side[0] * side[1]
    return model, {
        "hidden_states": torch.randn(batch, 4, 1, 2 * side[0], 2 * side[1]),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_DIM),
        "timestep": torch.arange(batch * tokens).view(batch, tokens) % 3 * 400
        if per_token
        else torch.full((batch,), 500),
    }


def wan_image(batch: int, side: tuple[int, int], text: int, masked: bool) -> tuple[nn.Module, Inputs]:
    model = diffusers.WanTransformer3DModel(
        num_attention_heads=HEADS, attention_head_dim=HEAD_DIM, in_channels=4, out_channels=4, text_dim=TEXT_DIM,
        freq_dim=16, ffn_dim=64, num_layers=2, rope_max_seq_len=32, image_dim=12, added_kv_proj_dim=HEADS * HEAD_DIM,
    )  # fmt: skip
    _, inputs = wan(batch, side, 512, masked)  # the processor takes the last 512 tokens for text
    return model, inputs | {"encoder_hidden_states_image": torch.randn(batch, 5, 12)}


FAMILIES: dict[str, Callable[..., tuple[nn.Module, Inputs]]] = {
    "FluxTransformer2DModel": flux,
    "Flux2Transformer2DModel": flux2,
    "QwenImageTransformer2DModel": qwen_image,
    "WanTransformer3DModel": wan,
}
VARIANTS: dict[str, Callable[..., tuple[nn.Module, Inputs]]] = {
    "flux2_mlp_ratio_4": lambda *shape: flux2(*shape, mlp_ratio=4.0),
    "qwen_image_edit": lambda *shape: qwen_image(*shape, zero_cond_t=True),
    "qwen_image_layered": lambda *shape: qwen_image(*shape, use_layer3d_rope=True),
    "wan_ti2v": lambda *shape: wan(*shape, per_token=True),
    "wan_i2v": wan_image,
}
# batch, height and width in tokens, text tokens, padded prompts
SHAPES = {
    "even": (1, (4, 6), 8, False),
    "odd": (1, (5, 5), 7, False),
    "batch2": (2, (3, 5), 6, False),
    "masked": (3, (3, 5), 13, True),
    "short": (1, (1, 2), 1, False),  # fewer tokens than ranks
}


def positions(side: tuple[int, int], axes: int) -> Tensor:
    """Token positions of a picture, [height * width, axes], rows and columns in axes 1 and 2."""
    ids = torch.zeros(*side, axes)
    ids[..., 1] += torch.arange(side[0])[:, None]
    ids[..., 2] += torch.arange(side[1])[None]
    return ids.view(-1, axes)


def build(name: str, shape: tuple[Any, ...], dtype: torch.dtype, seed: int = 0) -> tuple[nn.Module, Inputs]:
    """A transformer and inputs for it, the same on every rank."""
    torch.manual_seed(seed)
    model, inputs = (FAMILIES | VARIANTS)[name](*shape)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    floats = {key: x.to(dtype) for key, x in inputs.items() if isinstance(x, Tensor) and x.is_floating_point()}
    return model.to(dtype).eval().requires_grad_(False), inputs | floats


def forward(model: nn.Module, inputs: Inputs) -> Tensor:
    return model(**inputs, return_dict=False)[0]


def serial(name: str, shape: tuple[Any, ...], dtype: torch.dtype) -> Tensor:
    """What one process computes."""
    return forward(*build(name, shape, dtype))


def parallel(name: str, layout: str, shape: tuple[Any, ...], dtype: torch.dtype) -> Tensor:
    """What a rank of a layout computes."""
    model, inputs = build(name, shape, dtype)
    ditmesh.enable_cache(model, parallelism_config=ParallelismConfig.parse(layout))
    return forward(model, inputs)


def communication(name: str, layout: str, shape: tuple[Any, ...]) -> tuple[dict[str, int], dict[str, int]]:
    """Calls and bytes of one forward on a rank of a layout."""
    model, inputs = build(name, shape, torch.float32)
    ditmesh.enable_cache(model, parallelism_config=ParallelismConfig.parse(layout))
    with CommunicationCounter() as counter:
        forward(model, inputs)
    return dict(counter.calls), dict(counter.bytes)


def relative_error(got: Tensor, want: Tensor) -> float:
    """max |got - want| / max |want|"""
    assert got.shape == want.shape
    return ((got - want).abs().max() / want.abs().max()).item()
