"""Wan Animate: the blocks of Wan, with face adapters between them in which a frame attends to its own face."""

from dataclasses import replace

from ditmesh.models.wan import SPEC as WAN
from ditmesh.spec import Attention, Blocks, Gather, Split, linears

SPEC = replace(
    WAN,
    transformer="WanAnimateTransformer3DModel",
    title="Wan Animate",
    blocks=(Blocks("blocks", between="attention to the face is added"),),
    tp_plan={**WAN.tp_plan, "face_adapter.*": "heads", **linears("face_adapter.*", "to_q to_k to_v", "to_out")},
    cp_plan={
        "rope": {0: Split(1), 1: Split(1)},
        "blocks.0": {"hidden_states": Split(1)},
        # A face adapter attends frame by frame, and the shards do not end where frames do.
        "face_adapter.*": {"hidden_states": Gather(1), 0: Split(1)},
        "proj_out": Gather(1),
    },
    attention={**WAN.attention, "face_adapter.*": Attention("WanAnimateFaceBlockAttnProcessor")},
)
