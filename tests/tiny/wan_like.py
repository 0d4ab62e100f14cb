"""Tiny pipelines that share all parts but the transformer with Wan: VACE, SkyReels-V2, Helios and AnyFlow."""

from pathlib import Path
from typing import Any

from diffusers import (
    AnyFlowFARPipeline,
    AnyFlowFARTransformer3DModel,
    AnyFlowPipeline,
    AnyFlowTransformer3DModel,
    FlowMapEulerDiscreteScheduler,
    HeliosPipeline,
    HeliosScheduler,
    HeliosTransformer3DModel,
    SkyReelsV2Pipeline,
    SkyReelsV2Transformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
)
from PIL import Image

from .parts import randomize
from .wan import CALL, SIZES, common

FRAME = Image.linear_gradient("L").convert("RGB").resize((80, 48))
CALL_VACE: dict[str, Any] = {
    **CALL,
    "video": [FRAME.rotate(10 * turn) for turn in range(CALL["num_frames"])],
    "mask": [Image.new("L", FRAME.size, 255 * (turn % 2)) for turn in range(CALL["num_frames"])],
    "reference_images": [FRAME.transpose(Image.Transpose.FLIP_TOP_BOTTOM)],
}
# Two chunks of 2 latent frames, the second with the first in its history.
CALL_HELIOS: dict[str, Any] = {**CALL, "num_latent_frames_per_chunk": 2, "history_sizes": [4, 2, 1], "num_frames": 9}
# A frame, then another: its attention, compiled on a GPU, is slow on a CPU.
CALL_FAR: dict[str, Any] = {**CALL, "chunk_partition": [1, 1], "num_frames": 5, "num_inference_steps": 1}


def build_vace(path: Path) -> Path:
    sizes = {**SIZES, "num_layers": 3, "vace_layers": [0, 2], "vace_in_channels": 96}
    WanVACEPipeline(**common(), transformer=randomize(WanVACETransformer3DModel(**sizes), seed=4)).save_pretrained(path)
    return path


def build_skyreels_v2(path: Path) -> Path:
    transformer = randomize(SkyReelsV2Transformer3DModel(**SIZES), seed=4)
    SkyReelsV2Pipeline(**common(), transformer=transformer).save_pretrained(path)
    return path


def build_helios(path: Path) -> Path:
    transformer = randomize(HeliosTransformer3DModel(**SIZES, rope_dim=(4, 6, 6)), seed=4)
    scheduler = HeliosScheduler(stages=1, stage_range=[0, 1], use_dynamic_shifting=True)
    HeliosPipeline(**common() | {"scheduler": scheduler}, transformer=transformer).save_pretrained(path)
    return path


def build_anyflow(path: Path) -> Path:
    transformer = randomize(AnyFlowTransformer3DModel(**SIZES), seed=4)
    AnyFlowPipeline(**common() | _flow_map(), transformer=transformer).save_pretrained(path)
    return path


def build_anyflow_far(path: Path) -> Path:
    transformer = randomize(AnyFlowFARTransformer3DModel(**SIZES, chunk_partition=(1, 1)), seed=4)
    AnyFlowFARPipeline(**common() | _flow_map(), transformer=transformer).save_pretrained(path)
    return path


def _flow_map() -> dict[str, FlowMapEulerDiscreteScheduler]:
    return {"scheduler": FlowMapEulerDiscreteScheduler(shift=5.0)}
