"""AuraFlow: a few double-stream blocks, then single-stream ones; register tokens before the text."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, Split

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
        "joint_transformer_blocks.*.attn": "heads",
        "joint_transformer_blocks.*.attn.to_q": "colwise",
        "joint_transformer_blocks.*.attn.to_k": "colwise",
        "joint_transformer_blocks.*.attn.to_v": "colwise",
        "joint_transformer_blocks.*.attn.to_out.0": "rowwise",
        "joint_transformer_blocks.*.attn.add_q_proj": "colwise",
        "joint_transformer_blocks.*.attn.add_k_proj": "colwise",
        "joint_transformer_blocks.*.attn.add_v_proj": "colwise",
        "joint_transformer_blocks.*.attn.to_add_out": "rowwise",
        "joint_transformer_blocks.*.ff.linear_1": "colwise",
        "joint_transformer_blocks.*.ff.linear_2": "colwise",
        "joint_transformer_blocks.*.ff.out_projection": "rowwise",
        "joint_transformer_blocks.*.ff_context.linear_1": "colwise",
        "joint_transformer_blocks.*.ff_context.linear_2": "colwise",
        "joint_transformer_blocks.*.ff_context.out_projection": "rowwise",
        "single_transformer_blocks.*.norm1.linear": "colwise_gather_output",
        "single_transformer_blocks.*.attn": "heads",
        "single_transformer_blocks.*.attn.to_q": "colwise",
        "single_transformer_blocks.*.attn.to_k": "colwise",
        "single_transformer_blocks.*.attn.to_v": "colwise",
        "single_transformer_blocks.*.attn.to_out.0": "rowwise",
        "single_transformer_blocks.*.ff.linear_1": "colwise",
        "single_transformer_blocks.*.ff.linear_2": "colwise",
        "single_transformer_blocks.*.ff.out_projection": "rowwise",
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
