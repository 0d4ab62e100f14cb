"""LongCat-Image: double- and single-stream blocks like FLUX.1."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, Split, double_stream, single_stream

SPEC = ModelSpec(
    transformer="LongCatImageTransformer2DModel",
    title="LongCat-Image",
    blocks=(
        Blocks("transformer_blocks", returns=("encoder_hidden_states", "hidden_states")),
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
        },
        "proj_out": Gather(1),
    },
    attention={
        "transformer_blocks.*.attn": Attention("LongCatImageAttnProcessor", ("text", "image")),
        "single_transformer_blocks.*.attn": Attention("LongCatImageAttnProcessor", ("text", "image")),
    },
    tokenwise="hidden_states",
)
