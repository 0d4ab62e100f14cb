"""Chroma: FLUX.1 blocks whose modulation one small network computes for all; a padding mask for the text."""

from dataclasses import replace

from ditmesh.models.flux import SPEC as FLUX
from ditmesh.spec import Blocks

SPEC = replace(
    FLUX,
    transformer="ChromaTransformer2DModel",
    title="Chroma",
    blocks=(FLUX.blocks[0], Blocks("single_transformer_blocks", between="ControlNet residuals")),
    tp_plan={name: style for name, style in FLUX.tp_plan.items() if "norm" not in name},
)
