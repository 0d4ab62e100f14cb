"""Wan VACE: the blocks of Wan, and control blocks that run first and whose hints some of them add."""

from ditmesh.models.wan import SPEC as WAN
from ditmesh.spec import Blocks, Gather, ModelSpec, Split

SPEC = ModelSpec(
    transformer="WanVACETransformer3DModel",
    title="Wan VACE",
    blocks=(
        Blocks("vace_blocks", returns=("", "control_hidden_states"), apart="it makes the hints that other blocks add"),
        Blocks("blocks", between="hints are added"),
    ),
    tp_plan={
        **{f"vace_{name}": style for name, style in WAN.tp_plan.items()},
        **WAN.tp_plan,
        "vace_blocks.*.proj_in?": "colwise_gather_output",
        "vace_blocks.*.proj_out": "colwise_gather_output",
    },
    cp_plan={
        "rope": {0: Split(1), 1: Split(1)},
        # Only the first control block reads the video, and the control it returns is cut from there on.
        "vace_blocks.0": {"hidden_states": Split(1), "control_hidden_states": Split(1)},
        "blocks.0": {"hidden_states": Split(1)},
        "proj_out": Gather(1),
    },
    attention={**{f"vace_{name}": fact for name, fact in WAN.attention.items()}, **WAN.attention},
    batch_dims={"control_hidden_states_scale": None},
)
