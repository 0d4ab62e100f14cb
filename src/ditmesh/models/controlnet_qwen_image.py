"""ControlNet of Qwen-Image: a few of its blocks, with the condition added to the picture before them."""

from ditmesh.models.qwen_image import SPEC as QWEN_IMAGE
from ditmesh.spec import Gather, ModelSpec

SPEC = ModelSpec(
    transformer="QwenImageControlNetModel",
    title="the ControlNet of Qwen-Image",
    blocks=QWEN_IMAGE.blocks,
    tp_plan={
        **{name: style for name, style in QWEN_IMAGE.tp_plan.items() if name.startswith("transformer_blocks")},
        "controlnet_blocks.*": "colwise_gather_output",
    },
    cp_plan={
        **{name: QWEN_IMAGE.cp_plan[name] for name in ("transformer_blocks.0", "transformer_blocks.*", "pos_embed")},
        "controlnet_blocks.*": Gather(1),
    },
    attention=QWEN_IMAGE.attention,
    controls=QWEN_IMAGE.transformer,
)
