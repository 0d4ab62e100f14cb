"""CogVideoX: blocks that join text and video in one attention and return the video first."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, Split, attention, feed_forward

SPEC = ModelSpec(
    transformer="CogVideoXTransformer3DModel",
    title="CogVideoX",
    blocks=(Blocks("transformer_blocks", returns=("hidden_states", "encoder_hidden_states")),),
    tp_plan={
        "transformer_blocks.*.norm1.linear": "colwise_gather_output",
        "transformer_blocks.*.norm2.linear": "colwise_gather_output",
        **attention("transformer_blocks.*.attn1"),
        **feed_forward("transformer_blocks.*.ff"),
        "norm_out.linear": "colwise_gather_output",
    },
    cp_plan={
        # The transformer takes text and video apart by the text's full length, so they are cut where the blocks begin.
        "": {"image_rotary_emb": Split(0)},
        "transformer_blocks.0": {"hidden_states": Split(1), "encoder_hidden_states": Split(1, stream="text")},
        "proj_out": Gather(1),
    },
    attention={"transformer_blocks.*.attn1": Attention("CogVideoXAttnProcessor2_0", ("text", "image"))},
)
