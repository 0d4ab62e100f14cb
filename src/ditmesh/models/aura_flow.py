"""AuraFlow: a few double-stream blocks, then single-stream ones; register tokens before the text."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, Split, attention, joint_attention, linears

SPEC = ModelSpec(
    transformer="AuraFlowTransformer2DModel",
    title="AuraFlow",
    blocks=(
        Blocks("joint_transformer_blocks", returns=("encoder_hidden_states", "hidden_states")),
        Blocks("single_transformer_blocks"),
    ),
    tp_plan={
        "joint_transformer_blocks.*.norm1.linear": "colwise_gather_output",
        "joint_transformer_blocks.*.norm1_context.linear": "colwise_gather_output",
        **joint_attention("joint_transformer_blocks.*.attn"),
        **linears("joint_transformer_blocks.*.ff", "linear_1 linear_2", "out_projection"),
        **linears("joint_transformer_blocks.*.ff_context", "linear_1 linear_2", "out_projection"),
        "single_transformer_blocks.*.norm1.linear": "colwise_gather_output",
        **attention("single_transformer_blocks.*.attn"),
        **linears("single_transformer_blocks.*.ff", "linear_1 linear_2", "out_projection"),
        "norm_out.linear": "colwise_gather_output",
    },
    cp_plan={
        "joint_transformer_blocks.0": {"hidden_states": Split(1), "encoder_hidden_states": Split(1, stream="text")},
        "proj_out": Gather(1),
    },
    attention={
        "joint_transformer_blocks.*.attn": Attention("AuraFlowAttnProcessor2_0", ("text", "image")),
        "single_transformer_blocks.*.attn": Attention("AuraFlowAttnProcessor2_0", ("text", "image")),
    },
)
