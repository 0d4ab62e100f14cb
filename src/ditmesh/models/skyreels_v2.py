"""SkyReels-V2: the blocks of Wan, with a timestep a frame (diffusion forcing) and attention in causal chunks."""

from dataclasses import replace

from ditmesh.models.plans import self_and_cross
from ditmesh.models.wan import SPEC as WAN
from ditmesh.spec import Gather, Split

SPEC = replace(
    WAN,
    transformer="SkyReelsV2Transformer3DModel",
    title="SkyReels-V2",
    cp_plan={
        "rope": {0: Split(1), 1: Split(1)},
        "blocks.0": {"hidden_states": Split(1)},
        "blocks.*": {"temb": Split(2, ndim=4)},  # diffusion forcing: [B, 6, S, C]
        # The model then scales by a timestep a token that no module sees, so it needs every token here.
        "norm_out": Gather(1),
    },
    attention=self_and_cross("blocks.*", "SkyReelsV2AttnProcessor"),
)
