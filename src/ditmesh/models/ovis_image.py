"""Ovis-Image: double- and single-stream blocks like FLUX.1, with gated feed-forwards."""

from ditmesh.spec import Attention, Blocks, Fused, Gather, Heads, ModelSpec, Split, joint_attention

SPEC = ModelSpec(
    transformer="OvisImageTransformer2DModel",
    title="Ovis-Image",
    blocks=(
        Blocks("transformer_blocks", returns=("encoder_hidden_states", "hidden_states")),
        Blocks("single_transformer_blocks", returns=("encoder_hidden_states", "hidden_states")),
    ),
    tp_plan={
        "transformer_blocks.*.norm1.linear": "colwise_gather_output",
        "transformer_blocks.*.norm1_context.linear": "colwise_gather_output",
        **joint_attention("transformer_blocks.*.attn"),
        "transformer_blocks.*.ff.net.0.proj": Fused("colwise", ("rest", "rest")),  # [value | gate]
        "transformer_blocks.*.ff.net.2": "rowwise",
        "transformer_blocks.*.ff_context.net.0.proj": Fused("colwise", ("rest", "rest")),
        "transformer_blocks.*.ff_context.net.2": "rowwise",
        "single_transformer_blocks.*": Heads(("mlp_hidden_dim",)),
        "single_transformer_blocks.*.norm.linear": "colwise_gather_output",
        "single_transformer_blocks.*.attn": "heads",
        "single_transformer_blocks.*.attn.to_q": "colwise",
        "single_transformer_blocks.*.attn.to_k": "colwise",
        "single_transformer_blocks.*.attn.to_v": "colwise",
        "single_transformer_blocks.*.proj_mlp": Fused("colwise", ("rest", "rest")),
        "single_transformer_blocks.*.proj_out": Fused("rowwise", ("heads", "rest")),  # [attention | MLP]
        "norm_out.linear": "colwise_gather_output",
    },
    cp_plan={
        "": {
            "hidden_states": Split(1),
            "encoder_hidden_states": Split(1, stream="text"),
            "img_ids": Split(-2),
            "txt_ids": Split(-2, stream="text"),
        },
        "proj_out": Gather(1),
    },
    attention={
        "transformer_blocks.*.attn": Attention("OvisImageAttnProcessor", ("text", "image")),
        "single_transformer_blocks.*.attn": Attention("OvisImageAttnProcessor", ("text", "image")),
    },
    tokenwise="hidden_states",
    batch_dims=dict.fromkeys(("img_ids", "txt_ids")),  # those of the first sample hold for all
)
