"""ConsisID: the blocks of CogVideoX, and cross-attention to a face between them."""

from dataclasses import replace

from ditmesh.models.cogvideox import SPEC as COGVIDEOX
from ditmesh.spec import Fused, Gather, linears

SPEC = replace(
    COGVIDEOX,
    transformer="ConsisIDTransformer3DModel",
    title="ConsisID",
    blocks=(replace(COGVIDEOX.blocks[0], between="attention to the face is added"),),
    tp_plan={
        **COGVIDEOX.tp_plan,
        # Every token of the video attends to all tokens of the face; only models for faces have it.
        "perceiver_cross_attention.*?": "heads",
        **linears("perceiver_cross_attention.*", "to_q?", "to_out?"),
        "perceiver_cross_attention.*.to_kv?": Fused("colwise", ("rest", "rest")),
    },
    cp_plan={
        **COGVIDEOX.cp_plan,
        # The transformer takes text and video apart by the text's full length after the blocks, too.
        "transformer_blocks.-1": {1: Gather(1, stream="text")},
    },
)
