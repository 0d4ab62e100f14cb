"""CogView4: double-stream blocks of one attention and one MLP for both streams, the image returned first."""

from dataclasses import replace

from ditmesh.models.cogview3plus import SPEC as COGVIEW3PLUS
from ditmesh.spec import Attention, Gather, Refuse, Split

SPEC = replace(
    COGVIEW3PLUS,
    transformer="CogView4Transformer2DModel",
    title="CogView4",
    cp_plan={
        "": {
            "image_rotary_emb": Split(0),
            "attention_mask": Refuse(
                "its processor adds the mask, ones and zeros, to the scores of a rank's own tokens. The pipelines pass "
                "none; use tp_size."
            ),
        },
        "rope": {0: Split(0), 1: Split(0)},
        "patch_embed": {0: Split(1), 1: Split(1, stream="text")},
        "proj_out": Gather(1),
    },
    attention={"transformer_blocks.*.attn1": Attention("CogView4AttnProcessor", ("text", "image"))},
)
