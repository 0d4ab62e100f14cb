"""Bria FIBO: FLUX.1 blocks that take half of the text from another layer of the text encoder each."""

from ditmesh.spec import Attention, Blocks, Fused, Gather, ModelSpec, Split

_TEXT = "half of the text's channels are replaced by those of the next layer of the text encoder"

SPEC = ModelSpec(
    transformer="BriaFiboTransformer2DModel",
    title="Bria FIBO",
    blocks=(
        Blocks("transformer_blocks", returns=("encoder_hidden_states", "hidden_states"), between=_TEXT),
        Blocks("single_transformer_blocks", between=_TEXT),
    ),
    tp_plan={
        "transformer_blocks.*.norm1.linear": "colwise_gather_output",
        "transformer_blocks.*.norm1_context.linear": "colwise_gather_output",
        "transformer_blocks.*.attn": "heads",
        "transformer_blocks.*.attn.to_q": "colwise",
        "transformer_blocks.*.attn.to_k": "colwise",
        "transformer_blocks.*.attn.to_v": "colwise",
        "transformer_blocks.*.attn.to_out.0": "rowwise",
        "transformer_blocks.*.attn.add_q_proj": "colwise",
        "transformer_blocks.*.attn.add_k_proj": "colwise",
        "transformer_blocks.*.attn.add_v_proj": "colwise",
        "transformer_blocks.*.attn.to_add_out": "rowwise",
        "transformer_blocks.*.ff.net.0.proj": "colwise",
        "transformer_blocks.*.ff.net.2": "rowwise",
        "transformer_blocks.*.ff_context.net.0.proj": "colwise",
        "transformer_blocks.*.ff_context.net.2": "rowwise",
        "single_transformer_blocks.*.norm.linear": "colwise_gather_output",
        "single_transformer_blocks.*.attn": "heads",
        "single_transformer_blocks.*.attn.to_q": "colwise",
        "single_transformer_blocks.*.attn.to_k": "colwise",
        "single_transformer_blocks.*.attn.to_v": "colwise",
        "single_transformer_blocks.*.proj_mlp": "colwise",
        "single_transformer_blocks.*.proj_out": Fused("rowwise", ("heads", "rest")),  # [attention | MLP]
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
)
