"""A tiny random autoencoder of every class, and its work on one process and on ranks."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
import torch.distributed as dist
from diffusers.models.autoencoders.vae import AutoencoderMixin
from torch import Tensor, nn

from ditmesh import ParallelismConfig
from ditmesh.parallel.vae.apply import apply_vae_parallel
from ditmesh.runtime.mesh import Axis, build_mesh

KL = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 4,
    "latent_channels": 4,
    "sample_size": 16,
}
LTX = {
    "latent_channels": 8,
    "block_out_channels": (8, 16),
    "decoder_block_out_channels": (8, 16),
    "layers_per_block": (1, 1, 1),
    "decoder_layers_per_block": (1, 1, 1),
    "spatio_temporal_scaling": (True, False),
    "decoder_spatio_temporal_scaling": (True, False),
    "decoder_inject_noise": (False, False, False),
    "down_block_types": ("LTXVideoDownBlock3D",) * 2,
    "upsample_residual": (False, False),
    "upsample_factor": (1, 1),
    "patch_size": 2,
}
LTX2 = {
    "latent_channels": 8,
    "block_out_channels": (8, 16),
    "decoder_block_out_channels": (8, 16),
    "layers_per_block": (1, 1, 1),
    "decoder_layers_per_block": (1, 1, 1),
    "down_block_types": ("LTX2VideoDownBlock3D",) * 2,
    "spatio_temporal_scaling": (True, True),
    "decoder_spatio_temporal_scaling": (True, True),
    "decoder_inject_noise": (False, False, False),
    "downsample_type": ("spatial", "spatiotemporal"),
    "upsample_type": ("spatiotemporal", "spatial"),
    "upsample_residual": (True, True),
    "upsample_factor": (2, 2),
    "patch_size": 2,
}
WAN = {"base_dim": 8, "z_dim": 4, "dim_mult": [1, 2, 2], "num_res_blocks": 1, "temperal_downsample": [False, True]}

DC = {
    "latent_channels": 4,
    "attention_head_dim": 8,
    "encoder_block_types": ("ResBlock", "ResBlock", "EfficientViTBlock"),
    "decoder_block_types": ("ResBlock", "ResBlock", "EfficientViTBlock"),
    "encoder_block_out_channels": (8, 16, 16),
    "decoder_block_out_channels": (8, 16, 16),
    "encoder_layers_per_block": (1, 1, 1),
    "decoder_layers_per_block": (1, 1, 1),
    "encoder_qkv_multiscales": ((), (), (5,)),
    "decoder_qkv_multiscales": ((), (), (5,)),
}


@dataclass(frozen=True)
class Case:
    """A class and what makes it tiny; ``scale`` is picture rows by latent row, ``frames`` those of a video."""

    cls: str
    scale: int
    config: dict[str, Any]
    frames: tuple[int, int] | None = None  # of a picture and of its latent
    odd_rows: bool = True  # takes pictures that are no multiple of ``scale``
    fewest: int = 1  # latent rows it takes; reflecting padding wants two
    float64: bool = True  # False: the class itself computes parts in float32
    latent: int = 4
    pixels: int = 3
    timestep: bool = False  # decodes noise of a given level


CASES = {
    "kl": Case("AutoencoderKL", 2, KL),
    "kl_deep": Case(
        "AutoencoderKL",
        4,
        KL
        | {
            "block_out_channels": (8, 8, 16),
            "down_block_types": ("DownEncoderBlock2D",) * 3,
            "up_block_types": ("UpDecoderBlock2D",) * 3,
        },
    ),
    "flux2": Case("AutoencoderKLFlux2", 2, KL),
    "qwen_image": Case("AutoencoderKLQwenImage", 4, WAN, frames=(5, 3)),
    "wan_residual": Case(  # 2.2: patches, residual blocks
        "AutoencoderKLWan",
        8,
        WAN | {"scale_factor_spatial": 8, "patch_size": 2, "is_residual": True, "in_channels": 12, "out_channels": 12},
        frames=(5, 3),
        odd_rows=False,
    ),
    "hunyuan_video": Case(
        "AutoencoderKLHunyuanVideo",
        4,
        {
            "latent_channels": 4,
            "block_out_channels": (8, 8, 16),
            "down_block_types": ("HunyuanVideoDownBlock3D",) * 3,
            "up_block_types": ("HunyuanVideoUpBlock3D",) * 3,
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "spatial_compression_ratio": 4,
            "temporal_compression_ratio": 4,
        },
        frames=(5, 2),
    ),
    "hunyuan_video15": Case(
        "AutoencoderKLHunyuanVideo15",
        4,
        {
            "latent_channels": 4,
            "block_out_channels": (16, 16, 32),
            "layers_per_block": 1,
            "spatial_compression_ratio": 4,
            "temporal_compression_ratio": 2,
        },
        frames=(5, 3),
        odd_rows=False,
    ),
    "hunyuan_image": Case(
        "AutoencoderKLHunyuanImage",
        4,
        {
            "in_channels": 3,
            "out_channels": 3,
            "latent_channels": 4,
            "block_out_channels": (32, 32, 64),
            "layers_per_block": 1,
            "spatial_compression_ratio": 4,
            "sample_size": 16,
        },
        odd_rows=False,
    ),
    "ltx": Case("AutoencoderKLLTXVideo", 4, LTX, frames=(5, 3), odd_rows=False, latent=8, float64=False),
    "ltx2": Case("AutoencoderKLLTX2Video", 8, LTX2, frames=(5, 3), odd_rows=False, latent=8, fewest=2),
    "ltx095": Case(
        "AutoencoderKLLTXVideo",
        8,
        LTX
        | {
            "block_out_channels": (8, 16, 32),
            "down_block_types": ("LTXVideo095DownBlock3D",) * 2,
            "spatio_temporal_scaling": (True, True),
            "decoder_spatio_temporal_scaling": (True, True),
            "downsample_type": ("spatial", "spatiotemporal"),
            "upsample_residual": (True, True),
            "upsample_factor": (2, 2),
            "timestep_conditioning": True,
        },
        frames=(5, 2),
        odd_rows=False,
        latent=8,
        float64=False,
        timestep=True,
    ),
    "cogvideox": Case(
        "AutoencoderKLCogVideoX",
        4,
        {
            "latent_channels": 4,
            "block_out_channels": (8, 8, 16),
            "down_block_types": ("CogVideoXDownBlock3D",) * 3,
            "up_block_types": ("CogVideoXUpBlock3D",) * 3,
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "temporal_compression_ratio": 2,
        },
        frames=(17, 5),
    ),
    "mochi": Case(
        "AutoencoderKLMochi",
        4,
        {
            "encoder_block_out_channels": (32, 32, 64),
            "decoder_block_out_channels": (32, 32, 64),
            "latent_channels": 4,
            "layers_per_block": (1, 1, 1, 1),
            "temporal_expansions": (1, 2),
            "spatial_expansions": (2, 2),
            "add_attention_block": (False, True, True, True),
        },
        frames=(6, 3),
    ),
    "dc": Case("AutoencoderDC", 4, DC, odd_rows=False, float64=False),
    "dc_conv": Case(
        "AutoencoderDC",
        4,
        DC | {"downsample_block_type": "Conv", "upsample_block_type": "interpolate"},
        odd_rows=False,
        float64=False,
    ),
    "qwen_image21": Case(
        "AutoencoderKLQwenImage21",
        8,
        WAN | {"scale_factor_spatial": 8, "patch_size": 2, "in_channels": 12, "out_channels": 12},
        frames=(1, 1),
        odd_rows=False,
    ),
    "wan": Case("AutoencoderKLWan", 4, WAN | {"scale_factor_spatial": 4}, frames=(5, 3)),
}


# What makes the tiles of ``enable_tiling`` small enough for a tiny picture.
SQUARE = {"tile_sample_min_height": 16, "tile_sample_min_width": 16}
STRIDES = {"tile_sample_stride_height": 12, "tile_sample_stride_width": 12}
TILES: dict[str, dict[str, Any]] = {
    "kl_deep": {},
    "flux2": {},
    "wan": SQUARE | STRIDES,
    "qwen_image": SQUARE | STRIDES,
    "hunyuan_video": SQUARE | STRIDES,
    "hunyuan_video15": {**SQUARE, "tile_latent_min_height": 4, "tile_latent_min_width": 4},
    "hunyuan_image": {"tile_sample_min_size": 16},
    "ltx": SQUARE | STRIDES,
    "ltx2": {name: 2 * size for name, size in (SQUARE | STRIDES).items()},
    "cogvideox": SQUARE | {"tile_overlap_factor_height": 0.25, "tile_overlap_factor_width": 0.25},
    "mochi": SQUARE | STRIDES,
    "dc": SQUARE | STRIDES,
}


def build(name: str, dtype: torch.dtype, switch: str = "") -> Any:
    """The autoencoder of a case with random weights, norms and biases included, and ``switch`` called on it."""
    case = CASES[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = getattr(diffusers, case.cls)(**case.config)
        for parameter in vae.parameters():
            if parameter.squeeze().ndim < 2:
                nn.init.normal_(parameter, 0.5, 0.3)
    if switch:
        vars(type(vae)).get(switch, vars(AutoencoderMixin)[switch])(
            vae, **(TILES[name] if switch == "enable_tiling" else {})
        )
    return vae.to(dtype).eval()


def picture(name: str, rows: int, dtype: torch.dtype, batch: int = 1) -> Tensor:
    case = CASES[name]
    frames = () if case.frames is None else case.frames[:1]
    shape = (batch, case.pixels, *frames, rows, 3 * case.scale)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def latent(name: str, rows: int, dtype: torch.dtype, batch: int = 1) -> Tensor:
    case = CASES[name]
    frames = () if case.frames is None else case.frames[1:]
    return torch.randn((batch, case.latent, *frames, rows, 3), generator=torch.Generator().manual_seed(2), dtype=dtype)


def encode(vae: Any, x: Tensor) -> Tensor:
    made = vae.encode(x, return_dict=False)[0]
    return made if isinstance(made, Tensor) else made.parameters


def decode(vae: Any, z: Tensor, timestep: bool) -> Tensor:
    return vae.decode(z, temb=torch.full((len(z),), 0.05)).sample if timestep else vae.decode(z).sample


@torch.no_grad()
def work(vae: Any, name: str, sizes: list[tuple[str, int, int]], dtype: torch.dtype) -> list[Tensor]:
    """Encode or decode each ("encode" | "decode", rows, batch)."""
    made = []
    for verb, rows, batch in sizes:
        if verb == "encode":
            made.append(encode(vae, picture(name, rows, dtype, batch)))
        else:
            made.append(decode(vae, latent(name, rows, dtype, batch), CASES[name].timestep))
    return made


def mesh() -> Axis:
    return build_mesh(ParallelismConfig(tp_size=dist.get_world_size()), "cpu")["tp"]


def parallel(name: str, sizes: list[tuple[str, int, int]], dtype: torch.dtype, switch: str = "") -> list[Tensor]:
    vae = build(name, dtype, switch)
    with ExitStack() as undo:
        apply_vae_parallel(vae, mesh(), undo)
        return work(vae, name, sizes, dtype)
