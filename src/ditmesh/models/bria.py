"""Bria 3.2: double- and single-stream blocks like FLUX.1, without pooled text."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, Split, double_stream, single_stream

SPEC = ModelSpec(
    transformer="BriaTransformer2DModel",
    title="Bria",
    blocks=(
        Blocks(
            "transformer_blocks", returns=("encoder_hidden_states", "hidden_states"), between="ControlNet residuals"
        ),
        Blocks("single_transformer_blocks", returns=("encoder_hidden_states", "hidden_states")),
    ),
    tp_plan={
        **double_stream("transformer_blocks.*"),
        "single_transformer_blocks.*.norm.linear": "colwise_gather_output",
        "single_transformer_blocks.*.attn": "heads",
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
        },
        "proj_out": Gather(1),
    },
    attention={
        "transformer_blocks.*.attn": Attention("BriaAttnProcessor", ("text", "image")),
        "single_transformer_blocks.*.attn": Attention("BriaAttnProcessor", ("text", "image")),
    },
    tokenwise="hidden_states",
    batch_dims=dict.fromkeys(("img_ids", "txt_ids")),  # those of the first sample hold for all
)
