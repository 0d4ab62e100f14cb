"""CogView3-Plus: double-stream blocks of one attention and one MLP for both streams, the image returned first."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, Split, attention, feed_forward

SPEC = ModelSpec(
    transformer="CogView3PlusTransformer2DModel",
    title="CogView3-Plus",
    blocks=(Blocks("transformer_blocks", returns=("hidden_states", "encoder_hidden_states")),),
    tp_plan={
        "transformer_blocks.*.norm1.linear": "colwise_gather_output",
        **attention("transformer_blocks.*.attn1"),
        **feed_forward("transformer_blocks.*.ff"),
        "norm_out.linear": "colwise_gather_output",
    },
    cp_plan={
        # The patch embedding returns text and image in one tensor, which the transformer takes apart itself.
        "transformer_blocks.0": {"hidden_states": Split(1), "encoder_hidden_states": Split(1, stream="text")},
        "proj_out": Gather(1),
    },
    attention={"transformer_blocks.*.attn1": Attention("CogVideoXAttnProcessor2_0", ("text", "image"))},
)
