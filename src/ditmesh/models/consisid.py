"""ConsisID: the blocks of CogVideoX, and cross-attention to a face between them."""

from ditmesh.spec import Attention, Blocks, Fused, Gather, ModelSpec, Split

SPEC = ModelSpec(
    transformer="ConsisIDTransformer3DModel",
    title="ConsisID",
    blocks=(
        Blocks(
            "transformer_blocks",
            returns=("hidden_states", "encoder_hidden_states"),
            between="attention to the face is added",
        ),
    ),
    tp_plan={
        "transformer_blocks.*.norm1.linear": "colwise_gather_output",
        "transformer_blocks.*.norm2.linear": "colwise_gather_output",
        "transformer_blocks.*.attn1": "heads",
        "transformer_blocks.*.attn1.to_q": "colwise",
        "transformer_blocks.*.attn1.to_k": "colwise",
        "transformer_blocks.*.attn1.to_v": "colwise",
        "transformer_blocks.*.attn1.to_out.0": "rowwise",
        "transformer_blocks.*.ff.net.0.proj": "colwise",
        "transformer_blocks.*.ff.net.2": "rowwise",
        # Every token of the video attends to all tokens of the face; only models for faces have it.
        "perceiver_cross_attention.*?": "heads",
        "perceiver_cross_attention.*.to_q?": "colwise",
        "perceiver_cross_attention.*.to_kv?": Fused("colwise", ("rest", "rest")),
        "perceiver_cross_attention.*.to_out?": "rowwise",
        "norm_out.linear": "colwise_gather_output",
    },
    cp_plan={
        "": {"image_rotary_emb": Split(0)},
        # The transformer takes text and video apart by the text's full length before the blocks and after them.
        "transformer_blocks.0": {"hidden_states": Split(1), "encoder_hidden_states": Split(1, stream="text")},
        "transformer_blocks.-1": {1: Gather(1, stream="text")},
        "proj_out": Gather(1),
    },
    attention={"transformer_blocks.*.attn1": Attention("CogVideoXAttnProcessor2_0", ("text", "image"))},
)
