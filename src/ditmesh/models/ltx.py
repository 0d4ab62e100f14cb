"""LTX-Video: self-attention whose RoPE tables run over all heads, and cross-attention to text with a padding mask."""

from ditmesh.models.plans import self_and_cross
from ditmesh.spec import Blocks, Gather, ModelSpec, PerHead, Split, attention, feed_forward

SPEC = ModelSpec(
    transformer="LTXVideoTransformer3DModel",
    title="LTX-Video",
    blocks=(Blocks("transformer_blocks"),),
    tp_plan={
        "rope": PerHead({3: -1}),
        **attention("transformer_blocks.*.attn1", norms="norm_across_heads"),
        **attention("transformer_blocks.*.attn2", norms="norm_across_heads"),
        **feed_forward("transformer_blocks.*.ff"),
    },
    cp_plan={
        # Image-to-video has a timestep a token; the text stays whole, every token attends to all of it.
        "": {"hidden_states": Split(1), "timestep": Split(1, ndim=2)},
        "rope": {0: Split(1), 1: Split(1)},
        "proj_out": Gather(1),
    },
    attention=self_and_cross("transformer_blocks.*", "LTXVideoAttnProcessor"),
    tokenwise="hidden_states",
)
