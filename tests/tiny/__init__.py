"""Tiny random pipelines of diffusers' own classes, saved and loaded like the real ones, with nothing downloaded.

`tiny_path(name, root)` writes one once and says where it is; `call_kwargs(name)` is a call it answers in about a
second on a CPU. `python -m tests.tiny OUTDIR [NAME ...]` writes them for `ditmesh generate EXAMPLE --model-path`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import (
    cogvideox,
    cosmos3,
    flux,
    flux2,
    hunyuan_video,
    hunyuan_video15,
    ltx,
    ltx2,
    mochi,
    qwen_image,
    wan,
    wan_like,
)

__all__ = ["PIPELINES", "TINY", "Tiny", "call_kwargs", "tiny_path"]


@dataclass(frozen=True)
class Tiny:
    """A pipeline to be written, and the arguments of a short call to it."""

    build: Callable[[Path], Path]
    call: dict[str, Any]


TINY = {
    "flux": Tiny(flux.build, flux.CALL),
    "flux2": Tiny(flux2.build, flux2.CALL),
    "qwen_image": Tiny(qwen_image.build, qwen_image.CALL),
    "wan": Tiny(wan.build_t2v, wan.CALL),
    "wan_two": Tiny(wan.build_two, wan.CALL_TWO),
    "wan_i2v": Tiny(wan.build_i2v, wan.CALL_IMAGE),
    "wan_ti2v": Tiny(wan.build_ti2v, wan.CALL_TI2V),
    "wan_vace": Tiny(wan_like.build_vace, wan_like.CALL_VACE),
    "skyreels_v2": Tiny(wan_like.build_skyreels_v2, wan.CALL),
    "helios": Tiny(wan_like.build_helios, wan_like.CALL_HELIOS),
    "anyflow": Tiny(wan_like.build_anyflow, wan.CALL),
    "anyflow_far": Tiny(wan_like.build_anyflow_far, wan_like.CALL_FAR),
    "hunyuan_video": Tiny(hunyuan_video.build, hunyuan_video.CALL),
    "hunyuan_video_i2v": Tiny(hunyuan_video.build_i2v, hunyuan_video.CALL_IMAGE),
    "hunyuan_video_framepack": Tiny(hunyuan_video.build_framepack, hunyuan_video.CALL_FRAMEPACK),
    "hunyuan_video15": Tiny(hunyuan_video15.build, hunyuan_video15.CALL),
    "cogvideox": Tiny(cogvideox.build, cogvideox.CALL),
    "cosmos3": Tiny(cosmos3.build, cosmos3.CALL),
    "mochi": Tiny(mochi.build, mochi.CALL),
    "ltx": Tiny(ltx.build, ltx.CALL),
    "ltx2": Tiny(ltx2.build_t2v, ltx2.CALL),
    "ltx2_i2v": Tiny(ltx2.build_i2v, ltx2.CALL_IMAGE),
}

# For each class of pipeline the name of a tiny one.
PIPELINES = {
    "FluxPipeline": "flux",
    "Flux2Pipeline": "flux2",
    "QwenImagePipeline": "qwen_image",
    "WanPipeline": "wan",
    "WanImageToVideoPipeline": "wan_i2v",
    "WanVACEPipeline": "wan_vace",
    "SkyReelsV2Pipeline": "skyreels_v2",
    "HeliosPipeline": "helios",
    "AnyFlowPipeline": "anyflow",
    "AnyFlowFARPipeline": "anyflow_far",
    "HunyuanVideoPipeline": "hunyuan_video",
    "HunyuanVideoImageToVideoPipeline": "hunyuan_video_i2v",
    "HunyuanVideoFramepackPipeline": "hunyuan_video_framepack",
    "HunyuanVideo15Pipeline": "hunyuan_video15",
    "CogVideoXPipeline": "cogvideox",
    "Cosmos3OmniPipeline": "cosmos3",
    "MochiPipeline": "mochi",
    "LTXPipeline": "ltx",
    "LTX2Pipeline": "ltx2",
    "LTX2ImageToVideoPipeline": "ltx2_i2v",
}


def tiny_path(name: str, root: Path) -> Path:
    """Where the pipeline `name` lies under `root`; it is written there the first time."""
    path = root / name
    return path if (path / "model_index.json").exists() else TINY[name].build(path)


def call_kwargs(name: str) -> dict[str, Any]:
    """Arguments for `pipe(**call_kwargs(name))`: small, quick, with two guidance branches where the pipeline has them.

    No generator is among them: who calls chooses the noise.
    """
    return dict(TINY[name].call)
