"""ControlNet of FLUX.1: a few of its blocks of either kind; the union one puts a token for its mode before the text."""

from ditmesh.models.flux import SPEC as FLUX
from ditmesh.spec import Gather, ModelSpec, Split

SPEC = ModelSpec(
    transformer="FluxControlNetModel",
    title="the ControlNet of FLUX.1",
    blocks=FLUX.blocks,
    tp_plan={
        **{f"{name}?": style for name, style in FLUX.tp_plan.items() if "blocks" in name},
        "controlnet_blocks.*?": "colwise_gather_output",
        "controlnet_single_blocks.*?": "colwise_gather_output",
    },
    cp_plan={
        # The length of the text, and which positions are whose, are known where the blocks begin.
        "transformer_blocks.0|single_transformer_blocks.0": {
            "hidden_states": Split(1),
            "encoder_hidden_states": Split(1, stream="text"),
        },
        "transformer_blocks.*?": {"image_rotary_emb": Split(0, stream=("text", "image"))},
        "single_transformer_blocks.*?": {"image_rotary_emb": Split(0, stream=("text", "image"))},
        "controlnet_blocks.*?": Gather(1),
        "controlnet_single_blocks.*?": Gather(1),
    },
    attention={f"{name}?": fact for name, fact in FLUX.attention.items()},
    controls=FLUX.transformer,
)
