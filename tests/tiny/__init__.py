"""Tiny random pipelines of diffusers' own classes, saved and loaded like the real ones, with nothing downloaded.

`tiny_path(name, root)` writes one once and says where it is; `call_kwargs(name)` is a call it answers in about a
second on a CPU. `python -m tests.tiny OUTDIR [NAME ...]` writes them for `ditmesh generate EXAMPLE --model-path`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import (
    bria_fibo,
    chroma,
    cogvideox,
    cogview4,
    cosmos3,
    ernie_image,
    flux,
    flux2,
    flux2_klein,
    glm_image,
    hunyuan_image,
    hunyuan_video,
    hunyuan_video15,
    joyimage,
    krea2,
    longcat_image,
    ltx,
    ltx2,
    lumina2,
    mochi,
    ovis_image,
    qwen_image,
    sd3,
    wan,
    wan_like,
    z_image,
)

__all__ = ["PIPELINES", "TINY", "Tiny", "call_kwargs", "tiny_path"]


@dataclass(frozen=True)
class Tiny:
    """A pipeline to be written, and the arguments of a short call to it."""

    build: Callable[[Path], Path]
    call: dict[str, Any]


TINY = {
    "flux": Tiny(flux.build, flux.CALL),
    "flux_fill": Tiny(flux.build_fill, flux.CALL_FILL),
    "flux_kontext": Tiny(flux.build_kontext, flux.CALL_KONTEXT),
    "flux_control": Tiny(flux.build_control, flux.CALL_CONTROL),
    "flux2": Tiny(flux2.build, flux2.CALL),
    "flux2_klein": Tiny(flux2_klein.build, flux2_klein.CALL),
    "flux2_klein_edit": Tiny(flux2_klein.build, flux2_klein.CALL_EDIT),
    "flux2_klein_kv": Tiny(flux2_klein.build_kv, flux2_klein.CALL_KV),
    "qwen_image": Tiny(qwen_image.build, qwen_image.CALL),
    "qwen_image_edit": Tiny(qwen_image.build_edit, qwen_image.CALL_EDIT),
    "qwen_image_edit_plus": Tiny(qwen_image.build_edit_plus, qwen_image.CALL_EDIT_PLUS),
    "qwen_image_layered": Tiny(qwen_image.build_layered, qwen_image.CALL_LAYERED),
    "qwen_image_controlnet": Tiny(qwen_image.build_controlnet, qwen_image.CALL_CONTROL),
    "qwen_image_controlnet_inpaint": Tiny(qwen_image.build_controlnet_inpaint, qwen_image.CALL_CONTROL_INPAINT),
    "ovis_image": Tiny(ovis_image.build, ovis_image.CALL),
    "z_image": Tiny(z_image.build, z_image.CALL),
    "z_image_turbo": Tiny(z_image.build, z_image.CALL_TURBO),
    "z_image_controlnet": Tiny(z_image.build_controlnet, z_image.CALL_CONTROL),
    "longcat_image": Tiny(longcat_image.build, longcat_image.CALL),
    "longcat_image_edit": Tiny(longcat_image.build_edit, longcat_image.CALL_EDIT),
    "glm_image": Tiny(glm_image.build, glm_image.CALL),
    "ernie_image": Tiny(ernie_image.build, ernie_image.CALL),
    "krea2": Tiny(krea2.build, krea2.CALL),
    "joy_image_edit": Tiny(joyimage.build, joyimage.CALL),
    "bria_fibo": Tiny(bria_fibo.build, bria_fibo.CALL),
    "hunyuan_image": Tiny(hunyuan_image.build, hunyuan_image.CALL),
    "sd3": Tiny(sd3.build, sd3.CALL),
    "chroma": Tiny(chroma.build, chroma.CALL),
    "cogview4": Tiny(cogview4.build, cogview4.CALL),
    "lumina2": Tiny(lumina2.build, lumina2.CALL),
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


# The name of a tiny pipeline of each class.
PIPELINES = {
    "FluxPipeline": "flux",
    "FluxFillPipeline": "flux_fill",
    "FluxKontextPipeline": "flux_kontext",
    "FluxControlPipeline": "flux_control",
    "Flux2Pipeline": "flux2",
    "Flux2KleinPipeline": "flux2_klein",
    "Flux2KleinKVPipeline": "flux2_klein_kv",
    "QwenImagePipeline": "qwen_image",
    "QwenImageEditPipeline": "qwen_image_edit",
    "QwenImageEditPlusPipeline": "qwen_image_edit_plus",
    "QwenImageLayeredPipeline": "qwen_image_layered",
    "QwenImageControlNetPipeline": "qwen_image_controlnet",
    "QwenImageControlNetInpaintPipeline": "qwen_image_controlnet_inpaint",
    "OvisImagePipeline": "ovis_image",
    "ZImagePipeline": "z_image",
    "ZImageControlNetPipeline": "z_image_controlnet",
    "LongCatImagePipeline": "longcat_image",
    "LongCatImageEditPipeline": "longcat_image_edit",
    "GlmImagePipeline": "glm_image",
    "ErnieImagePipeline": "ernie_image",
    "Krea2Pipeline": "krea2",
    "JoyImageEditPipeline": "joy_image_edit",
    "BriaFiboPipeline": "bria_fibo",
    "HunyuanImagePipeline": "hunyuan_image",
    "StableDiffusion3Pipeline": "sd3",
    "ChromaPipeline": "chroma",
    "CogView4Pipeline": "cogview4",
    "Lumina2Pipeline": "lumina2",
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
