"""ControlNet of HunyuanDiT: the first half of its blocks, which give no skips."""

from ditmesh.models.hunyuan_dit import SPEC as HUNYUAN_DIT
from ditmesh.spec import Gather, ModelSpec, Split

SPEC = ModelSpec(
    transformer="HunyuanDiT2DControlNetModel",
    title="the ControlNet of HunyuanDiT",
    blocks=HUNYUAN_DIT.blocks,
    tp_plan={
        **{name: style for name, style in HUNYUAN_DIT.tp_plan.items() if name.startswith("blocks")},
        "controlnet_blocks.*": "colwise_gather_output",
    },
    cp_plan={
        "": {"image_rotary_emb": Split(0)},
        "pos_embed": {0: Split(1)},  # of the picture, then of the condition
        "controlnet_blocks.*": Gather(1),
    },
    attention=HUNYUAN_DIT.attention,
    covers=HUNYUAN_DIT.covers,
    controls=HUNYUAN_DIT.transformer,
)
