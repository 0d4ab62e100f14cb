"""FLUX.1: double-stream blocks, then single-stream blocks that fuse attention and MLP."""

from ditmesh.spec import (
    Attention,
    Blocks,
    Gather,
    ModelSpec,
    Split,
    added_projections,
    feed_forward,
    projections,
    single_stream,
)

SPEC = ModelSpec(
    transformer="FluxTransformer2DModel",
    title="FLUX.1",
    blocks=(
        Blocks(
            "transformer_blocks", returns=("encoder_hidden_states", "hidden_states"), between="ControlNet residuals"
        ),
        Blocks(
            "single_transformer_blocks",
            returns=("encoder_hidden_states", "hidden_states"),
            between="ControlNet residuals",
        ),
    ),
    tp_plan={
        "transformer_blocks.*.norm1.linear": "colwise_gather_output",
        "transformer_blocks.*.norm1_context.linear": "colwise_gather_output",
        **projections("transformer_blocks.*.attn"),
        **added_projections("transformer_blocks.*.attn"),
        **feed_forward("transformer_blocks.*.ff"),
        **feed_forward("transformer_blocks.*.ff_context"),
        "single_transformer_blocks.*.norm.linear": "colwise_gather_output",
        **single_stream("single_transformer_blocks.*"),
        "norm_out.linear": "colwise_gather_output",
    },
    cp_plan={
        "": {
            "hidden_states": Split(1),
            "encoder_hidden_states": Split(1, stream="text"),
            "img_ids": Split(-2),
            "txt_ids": Split(-2, stream="text"),
            "controlnet_block_samples": Split(1),
            "controlnet_single_block_samples": Split(1),
        },
        "proj_out": Gather(1),
    },
    attention={
        "transformer_blocks.*.attn": Attention("FluxAttnProcessor", ("text", "image")),
        "single_transformer_blocks.*.attn": Attention("FluxAttnProcessor", ("text", "image")),
    },
    tokenwise="hidden_states",
    batch_dims=dict.fromkeys(("img_ids", "txt_ids")),  # those of the first sample hold for all
)
