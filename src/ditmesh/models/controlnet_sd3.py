"""ControlNet of Stable Diffusion 3 and 3.5: double-stream blocks, or blocks of the image alone."""

from ditmesh.models.sd3 import SPEC as SD3
from ditmesh.spec import Attention, Gather, ModelSpec, Split

SPEC = ModelSpec(
    transformer="SD3ControlNetModel",
    title="the ControlNet of Stable Diffusion 3",
    blocks=SD3.blocks,
    tp_plan={
        **{f"{name.removesuffix('?')}?": style for name, style in SD3.tp_plan.items() if "blocks" in name},
        "controlnet_blocks.*": "colwise_gather_output",
    },
    cp_plan={
        "": {"hidden_states": Split(1, ndim=3)},  # patches already, where the transformer embeds them
        "pos_embed?": {0: Split(1)},
        "pos_embed_input": {0: Split(1)},
        "context_embedder?": {0: Split(1, stream="text")},
        "controlnet_blocks.*": Gather(1),
    },
    attention={
        "transformer_blocks.*.attn": Attention("JointAttnProcessor2_0", ("image", "text?")),
        "transformer_blocks.*.attn2?": Attention("JointAttnProcessor2_0", ("image",)),
    },
    controls=SD3.transformer,
)
