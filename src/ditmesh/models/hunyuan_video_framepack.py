"""FramePack: HunyuanVideo with the frames made so far before the new ones in one sequence."""

from ditmesh.spec import Attention, Blocks, Fused, Gather, ModelSpec, Split

SPEC = ModelSpec(
    transformer="HunyuanVideoFramepackTransformer3DModel",
    title="FramePack",
    blocks=(
        Blocks("transformer_blocks", returns=("hidden_states", "encoder_hidden_states")),
        Blocks("single_transformer_blocks", returns=("hidden_states", "encoder_hidden_states")),
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
        "transformer_blocks.0": {"hidden_states": Split(1), "encoder_hidden_states": Split(1, stream="text")},
        "transformer_blocks.*": {"freqs_cis": Split(0)},
        "single_transformer_blocks.*": {"image_rotary_emb": Split(0)},
        # The new frames are the end of the whole sequence, which is taken after the last block.
        "single_transformer_blocks.-1": {0: Gather(1)},
    },
    attention={
        "context_embedder.token_refiner.refiner_blocks.*.attn": Attention("AttnProcessor2_0"),
        "transformer_blocks.*.attn": Attention("HunyuanVideoAttnProcessor2_0", ("image", "text")),
        "single_transformer_blocks.*.attn": Attention("HunyuanVideoAttnProcessor2_0", ("image", "text")),
    },
)
