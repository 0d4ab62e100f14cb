"""EasyAnimate: blocks that join text and video in one attention, with projections and a feed-forward for each."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, Split, feed_forward, joint_attention

SPEC = ModelSpec(
    transformer="EasyAnimateTransformer3DModel",
    title="EasyAnimate",
    blocks=(Blocks("transformer_blocks", returns=("hidden_states", "encoder_hidden_states")),),
    tp_plan={
        "transformer_blocks.*.norm1.linear": "colwise_gather_output",
        "transformer_blocks.*.norm2.linear": "colwise_gather_output",
        **joint_attention("transformer_blocks.*.attn1"),
        **feed_forward("transformer_blocks.*.ff"),
        **feed_forward("transformer_blocks.*.txt_ff"),
        "norm_out.linear": "colwise_gather_output",
    },
    cp_plan={
        "rope_embedding": {0: Split(0), 1: Split(0)},
        "transformer_blocks.0": {"hidden_states": Split(1), "encoder_hidden_states": Split(1, stream="text")},
        "proj_out": Gather(1),
    },
    attention={"transformer_blocks.*.attn1": Attention("EasyAnimateAttnProcessor2_0", ("text", "image"))},
)
