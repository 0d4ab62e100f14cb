"""PixArt-Alpha and -Sigma: self- and cross-attention blocks with one modulation for all of them."""

from ditmesh.models.plans import self_and_cross
from ditmesh.spec import Blocks, Gather, ModelSpec, Refuse, Split, attention, feed_forward

SPEC = ModelSpec(
    transformer="PixArtTransformer2DModel",
    title="PixArt",
    blocks=(Blocks("transformer_blocks"),),
    tp_plan={
        "adaln_single.linear": "colwise_gather_output",
        **attention("transformer_blocks.*.attn1"),
        **attention("transformer_blocks.*.attn2"),
        **feed_forward("transformer_blocks.*.ff"),
    },
    cp_plan={
        "": {"attention_mask": Refuse("its processor pads the mask to a rank's own tokens. The pipelines pass none.")},
        "pos_embed": {0: Split(1)},
        "proj_out": Gather(1),
    },
    attention=self_and_cross("transformer_blocks.*", "AttnProcessor2_0"),
    covers={"activation_fn": ("gelu-approximate", "gelu")},  # gated ones pack two parts into one projection
)
