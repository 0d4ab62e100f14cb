"""Bria FIBO: FLUX.1 blocks that take half of the text from another layer of the text encoder each."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, Split, double_stream, single_stream

_TEXT = "half of the text's channels are replaced by those of the next layer of the text encoder"

SPEC = ModelSpec(
    transformer="BriaFiboTransformer2DModel",
    title="Bria FIBO",
    blocks=(
        Blocks("transformer_blocks", returns=("encoder_hidden_states", "hidden_states"), between=_TEXT),
        Blocks("single_transformer_blocks", between=_TEXT),
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
            "text_encoder_layers": Split(1, stream="text"),
            "img_ids": Split(-2),
            "txt_ids": Split(-2, stream="text"),
        },
        "proj_out": Gather(1),
    },
    attention={
        "transformer_blocks.*.attn": Attention("BriaFiboAttnProcessor", ("text", "image")),
        "single_transformer_blocks.*.attn": Attention("BriaAttnProcessor", ("text", "image")),
    },
    tokenwise="hidden_states",
    batch_dims=dict.fromkeys(("img_ids", "txt_ids")),  # those of the first sample hold for all
)
