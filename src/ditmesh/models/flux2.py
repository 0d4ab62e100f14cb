"""FLUX.2: double-stream blocks, then single-stream blocks that pack attention and MLP; modulation shared by all."""

from ditmesh.models.plans import OF_THE_FIRST_SAMPLE, tokens_and_positions
from ditmesh.spec import Attention, Blocks, Fused, ModelSpec, added_projections, packed_feed_forward, projections

SPEC = ModelSpec(
    transformer="Flux2Transformer2DModel",
    title="FLUX.2",
    blocks=(
        Blocks("transformer_blocks", returns=("encoder_hidden_states", "hidden_states")),
        Blocks("single_transformer_blocks"),
    ),
    tp_plan={
        "double_stream_modulation_img.linear": "colwise_gather_output",
        "double_stream_modulation_txt.linear": "colwise_gather_output",
        "single_stream_modulation.linear": "colwise_gather_output",
        **projections("transformer_blocks.*.attn"),
        **added_projections("transformer_blocks.*.attn"),
        **packed_feed_forward("transformer_blocks.*.ff", "linear_in", "linear_out"),
        **packed_feed_forward("transformer_blocks.*.ff_context", "linear_in", "linear_out"),
        # [query | key | value | gate | value of the MLP] in, [attention | MLP] out
        "single_transformer_blocks.*.attn.to_qkv_mlp_proj": Fused(
            "colwise", ("heads", "heads", "heads", "rest", "rest")
        ),
        "single_transformer_blocks.*.attn.to_out": Fused("rowwise", ("heads", "rest")),
        "norm_out.linear": "colwise_gather_output",
    },
    cp_plan=tokens_and_positions(),
    attention={
        "transformer_blocks.*.attn": Attention("Flux2AttnProcessor", ("text", "image")),
        "single_transformer_blocks.*.attn": Attention("Flux2ParallelSelfAttnProcessor", ("text", "image")),
    },
    tokenwise="hidden_states",
    batch_dims=OF_THE_FIRST_SAMPLE,
)
