"""Ovis-Image: double- and single-stream blocks like FLUX.1, with gated feed-forwards."""

from ditmesh.models.plans import OF_THE_FIRST_SAMPLE, joint_in_both, tokens_and_positions
from ditmesh.spec import Blocks, Fused, Heads, ModelSpec, joint_attention, linears, packed_feed_forward

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
        **packed_feed_forward("transformer_blocks.*.ff"),
        **packed_feed_forward("transformer_blocks.*.ff_context"),
        "single_transformer_blocks.*": Heads(("mlp_hidden_dim",)),
        "single_transformer_blocks.*.norm.linear": "colwise_gather_output",
        "single_transformer_blocks.*.attn": "heads",
        **linears("single_transformer_blocks.*.attn", "to_q to_k to_v"),
        "single_transformer_blocks.*.proj_mlp": Fused("colwise", ("rest", "rest")),
        "single_transformer_blocks.*.proj_out": Fused("rowwise", ("heads", "rest")),  # [attention | MLP]
        "norm_out.linear": "colwise_gather_output",
    },
    cp_plan=tokens_and_positions(),
    attention=joint_in_both("OvisImageAttnProcessor", ("text", "image")),
    tokenwise="hidden_states",
    batch_dims=OF_THE_FIRST_SAMPLE,
)
