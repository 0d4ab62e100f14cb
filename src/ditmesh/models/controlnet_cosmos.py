"""ControlNet of Cosmos Transfer: blocks of Cosmos that project what they give, the first one also what it takes."""

from ditmesh.models.cosmos import SPEC as COSMOS
from ditmesh.spec import Blocks, Gather, ModelSpec, Split

SPEC = ModelSpec(
    transformer="CosmosControlNetModel",
    title="the ControlNet of Cosmos",
    blocks=(Blocks("control_blocks", returns=("hidden_states", "residual")),),
    tp_plan={
        **{name.replace("transformer_blocks", "control_blocks"): style for name, style in COSMOS.tp_plan.items()},
        "control_blocks.*.before_proj?": "colwise_gather_output",
        "control_blocks.*.after_proj": "colwise_gather_output",
    },
    cp_plan={
        "rope": COSMOS.cp_plan["rope"],
        "control_blocks.0": {"hidden_states": Split(1), "latents": Split(1)},
        "control_blocks.*": {
            # Video-to-world has a timestep a frame, spread over its tokens.
            "embedded_timestep": Split(1, ndim=3),
            "temb": Split(1, ndim=3),
            "extra_pos_emb": Split(1),
            1: Gather(1),
        },
    },
    attention={name.replace("transformer_blocks", "control_blocks"): fact for name, fact in COSMOS.attention.items()},
    controls=COSMOS.transformer,
)
